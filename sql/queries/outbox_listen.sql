LISTEN "pgsagaz.outbox"
