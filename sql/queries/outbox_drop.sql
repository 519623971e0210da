SELECT pgsagaz.outbox_drop($1, $2, $3)
