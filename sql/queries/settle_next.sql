-- The commonest end of a step: it is done, and the lane goes on with the one step that follows. What
-- pgsagaz.settle does, in one plan (a third of its cost). Nobody's saga, or nobody's lane: division by zero,
-- which skips the COMMIT that travels with this; why is then asked in another transaction.
-- $1 saga, $2 lane, $3 token, $4 step, $5 attempt, $6 worker, $7 result, $8 seconds, $9 next step
WITH s AS MATERIALIZED (
    SELECT FROM pgsagaz.saga WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE
), l AS (
    UPDATE pgsagaz.lane SET step = $9, attempt = 0, crashes = 0, in_doubt = false, error = NULL
    FROM s WHERE lane.saga_id = $1 AND lane.id = $2 AND lane.token = $3
    RETURNING 1
), r AS (
    INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
    SELECT $1, $4, 'do', 1, 'done', $5, $3, $6, $7, pgsagaz.now() - make_interval(secs => $8), pgsagaz.now() FROM l
    RETURNING 1
)
SELECT 1 / count(*) FROM r
