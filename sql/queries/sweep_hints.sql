-- Lanes that are due and commands that wait, without a living job: a retry's time has come, or a job
-- was lost. The saga need not be looked at: whoever takes the job does.
WITH due AS (
    SELECT l.id FROM pgsagaz.lane l
    WHERE l.worker IS NULL AND l.run_at <= pgsagaz.now()
      AND NOT EXISTS (SELECT FROM pgsagaz.river_job j
                      WHERE j.id = l.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))
    ORDER BY l.run_at LIMIT 1000
    FOR UPDATE SKIP LOCKED
), lanes AS (
    UPDATE pgsagaz.lane l SET job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue)
    FROM due d, pgsagaz.saga s WHERE l.id = d.id AND s.id = l.saga_id
    RETURNING l.queue
), waiting AS (
    SELECT c.id FROM pgsagaz.command c
    WHERE NOT EXISTS (SELECT FROM pgsagaz.river_job j
                      WHERE j.id = c.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
), commands AS (
    UPDATE pgsagaz.command c SET job_id = pgsagaz.hint(s.id, s.name, s.version, 0, '', 'default')
    FROM waiting w, pgsagaz.saga s WHERE c.id = w.id AND s.id = c.saga_id
    RETURNING 'default'::text AS queue
)
SELECT DISTINCT queue FROM (SELECT queue FROM lanes UNION ALL SELECT queue FROM commands) q
