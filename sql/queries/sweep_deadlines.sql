-- Deadlines that have passed: their sagas are asked to turn back, unless they have ended.
WITH due AS (
    SELECT d.saga_id FROM pgsagaz.deadline d WHERE d.due_at <= pgsagaz.now() LIMIT 1000
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM pgsagaz.deadline d USING due WHERE d.saga_id = due.saga_id
)
INSERT INTO pgsagaz.command (saga_id, kind, reason, job_id)
SELECT s.id, 'deadline', 'the deadline passed', pgsagaz.hint(s.id, s.name, s.version, 0, '', 'pgsagaz_control')
FROM due JOIN pgsagaz.saga s ON s.id = due.saga_id
WHERE s.state = 'running'
RETURNING 'pgsagaz_control'
