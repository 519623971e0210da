-- In a transaction of its own snapshot: it is also what the reads after it see.
SELECT pg_current_snapshot()::text, pgsagaz.now(), s.last_value FROM pgsagaz.outbox_id_seq s
