SELECT rotated, truncated FROM pgsagaz.outbox_rotate($1, $2, $3)
