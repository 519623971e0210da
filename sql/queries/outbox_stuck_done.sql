UPDATE pgsagaz.outbox_stuck s SET done = true FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
WHERE s.id = ANY ($2::bigint[]) AND b.bucket = s.bucket AND c.epoch = $1
