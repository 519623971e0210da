SELECT pgsagaz.outbox_drop($1)
