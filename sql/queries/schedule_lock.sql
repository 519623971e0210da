-- What its next slot follows from. Whoever starts its sagas holds the row, and has moved it by then.
SELECT cron, zone, paused_at IS NOT NULL, pgsagaz.now() FROM pgsagaz.schedule WHERE name = $1 FOR UPDATE
