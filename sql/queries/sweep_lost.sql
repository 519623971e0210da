-- Lanes and commands whose job is gone without having served them: Postgres lost it in a crash, River
-- discarded it, somebody deleted it. They get another. This looks at all that waits, so it is rare.
WITH due AS (
    SELECT l.saga_id, l.id FROM pgsagaz.lane l
    WHERE l.worker IS NULL AND l.job_id IS NOT NULL
      AND l.run_at NOT BETWEEN pgsagaz.now() - interval '2 seconds' AND pgsagaz.now() + interval '2 seconds' -- beyond it, the clock was set back
      AND l.saga_id NOT IN (SELECT id FROM pgsagaz.saga WHERE paused_at IS NOT NULL)
      AND NOT EXISTS (SELECT FROM pgsagaz.river_job j
                      WHERE j.id = l.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
), lanes AS (
    UPDATE pgsagaz.lane l SET job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority)
    FROM due d, pgsagaz.saga s WHERE l.saga_id = d.saga_id AND l.id = d.id AND s.id = d.saga_id
    RETURNING l.queue
), waiting AS (
    SELECT c.id FROM pgsagaz.command c
    WHERE NOT EXISTS (SELECT FROM pgsagaz.river_job j
                      WHERE j.id = c.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
), commands AS (
    UPDATE pgsagaz.command c SET job_id = pgsagaz.hint(s.id, s.name, s.version, 0, '', 'pgsagaz_control')
    FROM waiting w, pgsagaz.saga s WHERE c.id = w.id AND s.id = c.saga_id
    RETURNING 'pgsagaz_control'::text AS queue
)
SELECT queue FROM lanes UNION ALL SELECT queue FROM commands
