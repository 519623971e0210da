-- What must be known to do a saga's first step before its lane is taken: the commit of the step takes it.
SELECT s.state::text, s.input, extract(epoch FROM s.deadline - pgsagaz.now())::float8, s.parent_id IS NOT NULL,
       extract(epoch FROM pgsagaz.now() - s.created_at)::float8, coalesce(s.traceparent, ''), l.generation
FROM pgsagaz.saga s JOIN pgsagaz.lane l ON l.saga_id = s.id
WHERE s.id = $1 AND l.id = $2 AND s.state = 'running' AND s.paused_at IS NULL AND l.step = '' AND l.worker IS NULL
