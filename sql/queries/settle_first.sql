-- The first step of a saga is done, by a worker that has not taken the lane yet: as settle_next.sql, and
-- lane_move_first.sql takes it. Whoever else did the same step meanwhile finds it taken, and rolls back.
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
VALUES ((SELECT id FROM pgsagaz.saga WHERE id = $1 AND state = 'running' AND paused_at IS NULL FOR NO KEY UPDATE),
        $4, 'do', 1, 'done',
        (SELECT $5::integer FROM pgsagaz.lane WHERE saga_id = $1 AND id = $2 AND step = '' AND worker IS NULL FOR UPDATE),
        $3, $6, $7, pgsagaz.now() - make_interval(secs => $8), pgsagaz.now())
