SELECT pgsagaz.outbox_leave($1)
