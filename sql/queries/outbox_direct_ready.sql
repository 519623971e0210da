-- Those of the messages that are committed, that nobody has put into the stream yet, and how old they are, in seconds.
SELECT event_id::text, created_at, extract(epoch FROM pgsagaz.now() - created_at)::float8
FROM pgsagaz.outbox_direct
WHERE event_id = ANY ($1::text[]::uuid[]) AND leased_until > pgsagaz.now()
