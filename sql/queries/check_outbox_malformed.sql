-- What nobody could publish.
SELECT coalesce(o.saga_id::text, ''), coalesce(o.step, ''), format('message %s of the outbox: topic %L, key %L, type %L, bucket %s, headers %s', o.id, o.topic, o.key, o.type, o.bucket, o.headers)
FROM (SELECT id::text, saga_id, step, topic, key, type, bucket, headers FROM pgsagaz.outbox
      UNION ALL SELECT event_id::text, saga_id, step, topic, key, type, bucket, headers FROM pgsagaz.outbox_direct) o
WHERE o.topic = '' OR o.key = '' OR o.type = '' OR o.bucket NOT BETWEEN 0 AND 255 OR jsonb_typeof(o.headers) <> 'object'
