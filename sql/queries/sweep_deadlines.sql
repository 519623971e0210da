-- A saga past its deadline is asked to turn back, once.
WITH late AS (
    SELECT s.id, s.name, s.version FROM pgsagaz.saga s
    WHERE s.ended_at IS NULL AND s.deadline <= pgsagaz.now() AND s.state = 'running'
      AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.saga_id = s.id AND c.kind = 'deadline')
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
)
INSERT INTO pgsagaz.command (saga_id, kind, reason, job_id)
SELECT id, 'deadline', 'the deadline passed', pgsagaz.hint(id, name, version, 0, '', 'default') FROM late
RETURNING 'default'
