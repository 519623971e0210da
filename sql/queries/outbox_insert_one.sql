-- outbox_insert for the one message that most transactions have, at two thirds of its cost. The WHERE is always true:
-- it is pgsagaz.durable in line, and asks for room where there is a limit.
INSERT INTO pgsagaz.outbox (slot, event_id, bucket, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
SELECT s.slot, $1::text::uuid, $2::smallint, $3::text, nullif($4::text, ''), $5::text, $6::text, coalesce($7::bytea, ''), $8::text::jsonb,
       nullif($9::text, ''), nullif($10::text, '')::uuid, nullif($11::text, '')
FROM pgsagaz.outbox_state s
WHERE CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN set_config('synchronous_commit', 'on', true) = 'on' ELSE true END
  AND CASE WHEN s.limited THEN pgsagaz.outbox_room(1) ELSE true END
