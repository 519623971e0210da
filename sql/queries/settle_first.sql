-- The first step of a saga is done, by a worker that has not taken the lane yet: as settle_next.sql, and the
-- lane is taken now. Whoever else did the same step meanwhile finds it taken, and rolls back.
-- $1 saga, $2 lane, $3 token, $4 step, $5 attempt, $6 worker, $7 result, $8 seconds, $9 next step
WITH s AS MATERIALIZED (
    SELECT FROM pgsagaz.saga WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), l AS (
    UPDATE pgsagaz.lane SET step = $9, worker = $6, token = $3
    FROM s WHERE lane.saga_id = $1 AND lane.id = $2 AND lane.step = '' AND lane.worker IS NULL
    RETURNING 1
), r AS (
    INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
    SELECT $1, $4, 'do', 1, 'done', $5, $3, $6, $7, pgsagaz.now() - make_interval(secs => $8), pgsagaz.now() FROM l
    RETURNING 1
)
SELECT 1 / count(*) FROM r
