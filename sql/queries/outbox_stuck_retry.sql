UPDATE pgsagaz.outbox_stuck s SET attempts = $3, next_at = pgsagaz.now() + $4 * interval '1 second', error = $5
FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
WHERE s.id = $2 AND b.bucket = s.bucket AND c.epoch = $1
