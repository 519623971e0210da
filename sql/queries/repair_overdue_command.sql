WITH due AS (
    SELECT c.id FROM pgsagaz.command c
    WHERE c.created_at <= pgsagaz.now() - $1::interval
      AND NOT EXISTS (SELECT FROM pgsagaz.river_job j
                      WHERE j.id = c.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
)
UPDATE pgsagaz.command c SET job_id = pgsagaz.hint(s.id, s.name, s.version, 0, '', 'pgsagaz_control')
FROM due d, pgsagaz.saga s WHERE c.id = d.id AND s.id = c.saga_id
RETURNING c.saga_id::text, s.name, '', 'the command ' || c.kind || ' has a job again'
