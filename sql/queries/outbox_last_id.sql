SELECT last_value FROM pgsagaz.outbox_id_seq
