DELETE FROM pgsagaz.outbox_pressure
