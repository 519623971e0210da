-- Sets the limit on what is pending, and counts it anew, up to the limit.
WITH s AS (UPDATE pgsagaz.outbox_state SET limited = true WHERE NOT limited)
INSERT INTO pgsagaz.outbox_pressure (max_pending, pending, at_id)
SELECT $1::bigint, (SELECT count(*) FROM (
               SELECT FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
               WHERE NOT pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id) LIMIT $1::bigint + 1) p), s.last_value
FROM pgsagaz.outbox_id_seq s
ON CONFLICT (only_row) DO UPDATE SET max_pending = excluded.max_pending, pending = excluded.pending, at_id = excluded.at_id
