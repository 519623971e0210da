WITH s AS (UPDATE pgsagaz.outbox_state SET limited = false WHERE limited)
DELETE FROM pgsagaz.outbox_pressure
