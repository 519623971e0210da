UPDATE pgsagaz.outbox_cursor SET prev = $3::text::pg_snapshot, cur = nullif($4::text, '')::pg_snapshot, last_id = $5, moved_at = pgsagaz.now()
WHERE id = $1 AND epoch = $2
