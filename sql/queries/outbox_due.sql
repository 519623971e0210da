SELECT moved, coalesce(next_in, -1) FROM pgsagaz.outbox_due($1)
