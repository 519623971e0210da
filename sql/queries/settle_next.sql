-- The commonest end of a step: it is done, and the lane goes on with the one step that follows (lane_move.sql,
-- in the same pipeline). The fences are scalar queries that lock what they look at: where the saga is not
-- running or is paused, or the lane somebody else's, a NULL meets a NOT NULL column, and the error skips the COMMIT that
-- travels behind. Why is then asked in another transaction. (One statement with three CTEs costs twice as much.)
-- $1 saga, $2 lane, $3 token, $4 step, $5 attempt, $6 worker, $7 result, $8 seconds
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
VALUES ((SELECT id FROM pgsagaz.saga WHERE id = $1 AND state = 'running' AND paused_at IS NULL FOR NO KEY UPDATE),
        $4, 'do', 1, 'done',
        (SELECT $5::integer FROM pgsagaz.lane WHERE saga_id = $1 AND id = $2 AND token = $3 FOR UPDATE),
        $3, $6, $7, pgsagaz.now() - make_interval(secs => $8), pgsagaz.now())
