-- Messages of one key in two buckets may be published by two relays at once.
SELECT coalesce(o.saga_id::text, ''), coalesce(o.step, ''), format('message %s of key %s is in bucket %s of the outbox, not %s', o.id, o.key, o.bucket, pgsagaz.outbox_bucket_of(o.key, o.event_id))
FROM pgsagaz.outbox o WHERE o.key IS NOT NULL AND o.bucket <> pgsagaz.outbox_bucket_of(o.key, o.event_id)
