-- A job is a hint: one too many is taken by nobody.
WITH due AS (
    SELECT l.saga_id, l.id FROM pgsagaz.lane l
    WHERE l.worker IS NULL AND l.run_at <= pgsagaz.now() - $1::interval
      AND l.saga_id NOT IN (SELECT id FROM pgsagaz.saga WHERE paused_at IS NOT NULL)
      AND NOT EXISTS (SELECT FROM pgsagaz.river_job j
                      WHERE j.id = l.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
)
UPDATE pgsagaz.lane l SET job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority)
FROM due d, pgsagaz.saga s WHERE l.saga_id = d.saga_id AND l.id = d.id AND s.id = d.saga_id
RETURNING l.saga_id::text, s.name, l.step, 'its lane has a job again'
