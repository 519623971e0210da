-- What a relay has.
SELECT c.id, array_agg(b.bucket ORDER BY b.bucket), c.prev::text, coalesce(c.cur::text, ''), c.last_id
FROM pgsagaz.outbox_cursor c JOIN pgsagaz.outbox_bucket b ON b.cursor_id = c.id
WHERE c.epoch = $1 GROUP BY c.id
