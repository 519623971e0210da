SELECT r.name, r.epoch, r.started_at, extract(epoch FROM pgsagaz.now() - r.beat_at)::float8, r.beat_at + r.lease >= pgsagaz.now(), r.published, r.rate,
       (SELECT count(*) FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id WHERE c.epoch = r.epoch)
FROM pgsagaz.outbox_relay r ORDER BY r.epoch
