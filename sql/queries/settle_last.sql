-- The last step of a saga is done: as settle_next.sql, and the saga is completed.
-- $1 saga, $2 lane, $3 token, $4 step, $5 attempt, $6 worker, $7 result, $8 seconds
WITH s AS (
    UPDATE pgsagaz.saga SET state = 'completed', ended_at = pgsagaz.now() WHERE id = $1 AND state = 'running' RETURNING 1
), l AS (
    DELETE FROM pgsagaz.lane USING s WHERE lane.saga_id = $1 AND lane.id = $2 AND lane.token = $3 RETURNING 1
), r AS (
    INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
    SELECT $1, $4, 'do', 1, 'done', $5, $3, $6, $7, pgsagaz.now() - make_interval(secs => $8), pgsagaz.now() FROM l
    RETURNING 1
)
SELECT 1 / count(*) FROM r
