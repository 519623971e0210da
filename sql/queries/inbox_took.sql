-- Claims are written with 0: this is for handlers that took a millisecond or more.
UPDATE pgsagaz.consumer_inbox i SET processing_duration_ms = t.ms
FROM unnest($2::uuid[], $3::integer[]) AS t(id, ms)
WHERE i.consumer_name = $1 AND i.event_id = t.id
