-- Publishes again, marked, what has been published before: a page of what is in the archive and in slots that are
-- not truncated yet. Pages go by id, up to $6: what replays write lies beyond.
WITH d AS MATERIALIZED (SELECT slot, pgsagaz.durable() FROM pgsagaz.outbox_state),
source AS MATERIALIZED (
    SELECT * FROM (
        SELECT * FROM pgsagaz.outbox_archive
        UNION ALL
        SELECT o.* FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
        WHERE NOT o.replayed AND pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)) a
    WHERE a.created_at >= $1 AND a.created_at < $2 AND ($3 = '' OR a.topic = $3) AND a.id > $4 AND a.id <= $6
    ORDER BY a.id LIMIT $5),
sent AS (
    INSERT INTO pgsagaz.outbox (slot, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step, created_at)
    SELECT d.slot, a.bucket, true, a.event_id, a.topic, a.key, a.routing_key, a.type, a.payload, a.headers, a.traceparent, a.saga_id, a.step, a.created_at
    FROM d, source a ORDER BY a.id)
SELECT count(*), coalesce(max(id), 0) FROM source
