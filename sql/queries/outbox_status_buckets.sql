SELECT b.bucket, coalesce(r.name, ''), coalesce(c.epoch, 0), extract(epoch FROM pgsagaz.now() - c.moved_at)::float8,
       (SELECT count(DISTINCT coalesce(s.key, s.id::text)) FROM pgsagaz.outbox_stuck s WHERE s.bucket = b.bucket AND NOT s.done)
FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id LEFT JOIN pgsagaz.outbox_relay r ON r.epoch = c.epoch
ORDER BY b.bucket
