-- The caller holds the row.
WITH resumed AS (
    UPDATE pgsagaz.schedule SET paused_at = NULL, retry_at = NULL, next_at = $2 WHERE name = $1 AND paused_at IS NOT NULL RETURNING name)
SELECT pgsagaz.audit_act('schedule', $1, 'resume', $3, $4, NULL, CASE WHEN EXISTS (SELECT FROM resumed) THEN 'obeyed' ELSE 'already' END)
