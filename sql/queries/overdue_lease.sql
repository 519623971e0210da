-- A lease that ended, and what was held under it still is: nobody sweeps.
SELECT l.saga_id::text, l.step, 'held by worker ' || l.worker || coalesce(', whose lease ended at ' || date_trunc('second', w.beat_at + w.lease), ', who is not there')
FROM pgsagaz.lane l LEFT JOIN pgsagaz.worker w ON w.id = l.worker
WHERE l.worker IS NOT NULL AND (w.id IS NULL OR w.beat_at + w.lease <= pgsagaz.now() - $1::interval)
UNION ALL
SELECT '', '', format('relay %s (%s) has %s buckets, and its lease ended at %s', r.name, r.epoch, count(*), date_trunc('second', r.beat_at + r.lease))
FROM pgsagaz.outbox_relay r JOIN pgsagaz.outbox_cursor c ON c.epoch = r.epoch JOIN pgsagaz.outbox_bucket b ON b.cursor_id = c.id
WHERE r.beat_at + r.lease <= pgsagaz.now() - $1::interval
GROUP BY r.epoch
