-- Steps of several sagas that are done, in one commit: each as by settle_next.sql and what goes behind it. It gives the tokens of those
-- whose fences held; the others have changed nothing.
--
-- No transaction waits for one saga while it holds another, or two of them could wait for each other. So a saga that
-- somebody has locked is passed over here. Its lane is waited for: who holds that waits for no saga.
-- $1 sagas, $2 lanes, $3 tokens, $4 steps, $5 attempts, $6 workers, $7 results, $8 seconds, $9 what follows; null: that was the saga's last step
WITH done AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::float8[], $9::text[])
        AS d(saga_id, lane, token, step, attempt, worker, result, seconds, next)
), held AS MATERIALIZED (
    SELECT id FROM pgsagaz.saga WHERE id = ANY ($1::uuid[]) AND state = 'running' AND paused_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
), moved AS (
    UPDATE pgsagaz.lane l SET step = d.next, attempt = 0, crashes = 0, in_doubt = false, error = NULL
    FROM done d JOIN held h ON h.id = d.saga_id
    WHERE d.next IS NOT NULL AND l.saga_id = d.saga_id AND l.id = d.lane AND l.token = d.token
    RETURNING l.token
), ended AS (
    DELETE FROM pgsagaz.lane l USING done d JOIN held h ON h.id = d.saga_id
    WHERE d.next IS NULL AND l.saga_id = d.saga_id AND l.id = d.lane AND l.token = d.token
    RETURNING l.token, l.saga_id
), completed AS (
    UPDATE pgsagaz.saga s SET state = 'completed', ended_at = pgsagaz.now() FROM ended e WHERE s.id = e.saga_id
)
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
SELECT d.saga_id, d.step, 'do', 1, 'done', d.attempt, d.token, d.worker, d.result::json, pgsagaz.now() - make_interval(secs => d.seconds), pgsagaz.now()
FROM done d WHERE d.token IN (SELECT token FROM moved UNION ALL SELECT token FROM ended)
RETURNING token
