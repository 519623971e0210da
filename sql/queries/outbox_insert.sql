-- durable sees to it that the commit is on disk before a message leaves; ids are drawn in the caller's order.
WITH s AS MATERIALIZED (SELECT slot, pgsagaz.durable(), CASE WHEN limited THEN pgsagaz.outbox_room(cardinality($1::text[])) END FROM pgsagaz.outbox_state)
INSERT INTO pgsagaz.outbox (slot, event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
SELECT s.slot, m.event_id::uuid, m.bucket, m.topic, nullif(m.key, ''), m.routing_key, m.type, coalesce(m.payload, ''), m.headers::jsonb,
       nullif(m.traceparent, ''), nullif($10::text, '')::uuid, nullif($11::text, '')
FROM s, unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[])
    WITH ORDINALITY AS m(event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, ord)
ORDER BY m.ord
