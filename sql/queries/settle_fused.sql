-- Steps that were done in one transaction, as settle_next.sql: the fences hold for all of them. $10: the lane is still
-- as the saga's start has left it, as in settle_first.sql.
-- $1 saga, $2 lane, $3 token, $4 steps, $5 attempts, $6 worker, $7 results, $8 began, $9 ended: seconds ago, $10 not taken
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
SELECT (SELECT id FROM pgsagaz.saga WHERE id = $1 AND state = 'running' AND paused_at IS NULL FOR NO KEY UPDATE),
       s.step, 'do', 1, 'done',
       s.attempt + (SELECT 0 FROM pgsagaz.lane WHERE saga_id = $1 AND id = $2
                    AND CASE WHEN $10::boolean THEN step = '' AND worker IS NULL ELSE token = $3 END FOR UPDATE),
       $3, $6, s.result::json, pgsagaz.now() - make_interval(secs => s.began), pgsagaz.now() - make_interval(secs => s.ended)
FROM unnest($4::text[], $5::integer[], $7::text[], $8::float8[], $9::float8[]) AS s(step, attempt, result, began, ended)
