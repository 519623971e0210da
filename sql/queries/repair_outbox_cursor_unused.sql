DELETE FROM pgsagaz.outbox_cursor c
WHERE NOT EXISTS (SELECT FROM pgsagaz.outbox_bucket b WHERE b.cursor_id = c.id) AND $1::interval IS NOT NULL
RETURNING '', '', '', format('cursor %s is gone', id)
