-- Claims are written with 0: this is for handlers that took a millisecond or more. The rows are there. It is no
-- UPDATE, since that would look for them in every partition, and lock all, where an INSERT goes to the one.
INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, processing_duration_ms)
SELECT t.id, $1, '', '', t.ms FROM unnest($2::uuid[], $3::integer[]) AS t(id, ms) ORDER BY t.id
ON CONFLICT (consumer_name, event_id) DO UPDATE SET processing_duration_ms = excluded.processing_duration_ms
