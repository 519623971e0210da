SELECT pgsagaz.outbox_release($1, $2, $3, $4, nullif($5, ''), $6)
