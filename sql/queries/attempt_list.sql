SELECT step, direction, generation, attempt, kind, coalesce(worker, ''), error, started_at, ended_at
FROM pgsagaz.attempt WHERE saga_id = $1 ORDER BY id
