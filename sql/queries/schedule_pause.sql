WITH before AS (SELECT name, paused_at FROM pgsagaz.schedule WHERE name = $1 FOR UPDATE),
paused AS (
    UPDATE pgsagaz.schedule s SET paused_at = pgsagaz.now() FROM before WHERE s.name = before.name AND before.paused_at IS NULL)
SELECT pgsagaz.audit_act('schedule', name, 'pause', $2, $3, NULL, CASE WHEN paused_at IS NULL THEN 'obeyed' ELSE 'already' END) FROM before
