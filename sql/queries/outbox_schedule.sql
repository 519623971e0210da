-- The same for messages that are not due yet; $12 is when they are.
WITH s AS MATERIALIZED (SELECT pgsagaz.durable(), CASE WHEN limited THEN pgsagaz.outbox_room(cardinality($1::text[])) END FROM pgsagaz.outbox_state)
INSERT INTO pgsagaz.outbox_scheduled (due_at, event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
SELECT m.due_at, m.event_id::uuid, m.bucket, m.topic, nullif(m.key, ''), m.routing_key, m.type, coalesce(m.payload, ''), m.headers::jsonb,
       nullif(m.traceparent, ''), nullif($10::text, '')::uuid, nullif($11::text, '')
FROM s, unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[], $12::timestamptz[])
    WITH ORDINALITY AS m(event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, due_at, ord)
ORDER BY m.ord
