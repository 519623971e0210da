-- Begins several sagas of one first step each, in one commit: as pgsagaz.begin. Those that somebody has locked, or that can't be begun, are not
-- among what it gives; see settle_many.sql.
-- $1 sagas, $2 lanes, $3 workers, $4 tokens, $5 steps
WITH fresh AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[]) AS f(saga_id, lane, worker, token, step)
), held AS MATERIALIZED (
    SELECT id, state, input, deadline, parent_id, created_at, traceparent
    FROM pgsagaz.saga WHERE id = ANY ($1::uuid[]) AND state = 'running' AND paused_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE pgsagaz.lane l SET worker = f.worker, token = f.token, step = f.step
FROM fresh f JOIN held s ON s.id = f.saga_id
WHERE l.saga_id = f.saga_id AND l.id = f.lane AND l.step = '' AND l.generation = 1 AND l.worker IS NULL
RETURNING l.token, s.state::text, s.input, extract(epoch FROM s.deadline - pgsagaz.now())::float8, s.parent_id IS NOT NULL,
          extract(epoch FROM pgsagaz.now() - s.created_at)::float8, coalesce(s.traceparent, '')
