-- A message that was redriven and has been given up again. No row: somebody has dropped it, or redrives it anew.
WITH f AS (
    DELETE FROM pgsagaz.inbox_failure WHERE consumer_name = $1 AND event_id = $2
    RETURNING attempts)
UPDATE pgsagaz.inbox_dead d SET redrive = NULL, reason = $5, error = $6, died_at = pgsagaz.now(),
                                attempts = d.attempts + coalesce((SELECT attempts FROM f), 0)
WHERE d.id = $3 AND d.redrive = $4
RETURNING id, attempts, first_at, died_at
