SELECT relays, rank, mine, free FROM pgsagaz.outbox_beat($1, $2, $3)
