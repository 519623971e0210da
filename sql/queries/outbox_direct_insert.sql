-- Messages that their writer publishes himself within $12, once they are committed. See outbox_insert for durable.
WITH s AS MATERIALIZED (SELECT direct_slot, pgsagaz.durable(), CASE WHEN limited THEN pgsagaz.outbox_room(cardinality($1::text[])) END FROM pgsagaz.outbox_state)
INSERT INTO pgsagaz.outbox_direct (slot, leased_until, event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
SELECT s.direct_slot, pgsagaz.now() + $12::interval, m.event_id::uuid, m.bucket, m.topic, nullif(m.key, ''), m.routing_key, m.type, coalesce(m.payload, ''), m.headers::jsonb,
       nullif(m.traceparent, ''), nullif($10::text, '')::uuid, nullif($11::text, '')
FROM s, unnest($1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[])
    AS m(event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent)
