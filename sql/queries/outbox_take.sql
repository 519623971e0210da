SELECT pgsagaz.outbox_take($1, $2)
