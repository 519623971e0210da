-- One more failed attempt. Not of an event that has been dealt with elsewhere meanwhile: no row then.
INSERT INTO pgsagaz.inbox_failure AS f (consumer_name, event_id, source_topic, event_type, attempts, error)
SELECT $1, $2, $3, $4, 1, $5
WHERE NOT EXISTS (SELECT FROM pgsagaz.consumer_inbox i WHERE i.consumer_name = $1 AND i.event_id = $2)
ON CONFLICT (consumer_name, event_id) DO UPDATE SET attempts = f.attempts + 1, error = excluded.error, last_at = excluded.last_at
RETURNING attempts
