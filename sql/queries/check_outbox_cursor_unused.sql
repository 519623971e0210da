-- One of no bucket: its buckets have gone somewhere without it.
SELECT '', '', format('cursor %s of the outbox has no bucket', c.id)
FROM pgsagaz.outbox_cursor c WHERE NOT EXISTS (SELECT FROM pgsagaz.outbox_bucket b WHERE b.cursor_id = c.id)
