SELECT pgsagaz.outbox_merge($1, $2, $3)
