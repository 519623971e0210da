SELECT id::text, name, version, state::text, coalesce(key, ''), tags, input, cause, created_at, deadline, ended_at, output, coalesce(parent_id::text, ''), coalesce(parent_step, ''),
       steps, attempts, signals, children
FROM pgsagaz.archive WHERE id = $1
