SELECT moved, truncated FROM pgsagaz.outbox_direct_tend($1, $2, $3)
