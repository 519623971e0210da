-- Lanes whose time has come get a job: retries, and what an operator set going again.
WITH due AS (
    SELECT l.saga_id, l.id FROM pgsagaz.lane l
    WHERE l.worker IS NULL AND l.job_id IS NULL AND l.run_at <= pgsagaz.now()
      AND l.saga_id NOT IN (SELECT id FROM pgsagaz.saga WHERE paused_at IS NOT NULL)
    ORDER BY l.run_at LIMIT 1000
    FOR UPDATE SKIP LOCKED
), lanes AS (
    UPDATE pgsagaz.lane l SET job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority)
    FROM due d, pgsagaz.saga s WHERE l.saga_id = d.saga_id AND l.id = d.id AND s.id = d.saga_id
    RETURNING l.queue
)
SELECT DISTINCT queue FROM lanes
