-- The first of each key that waits.
SELECT DISTINCT ON (s.bucket, coalesce(s.key, s.id::text)) coalesce(s.key, ''), s.topic, s.event_id, s.attempts, coalesce(s.error, ''),
       CASE WHEN isfinite(s.next_at) THEN extract(epoch FROM s.next_at - pgsagaz.now())::float8 ELSE 0 END, NOT isfinite(s.next_at),
       count(*) OVER (PARTITION BY s.bucket, coalesce(s.key, s.id::text))
FROM pgsagaz.outbox_stuck s WHERE NOT s.done ORDER BY s.bucket, coalesce(s.key, s.id::text), s.id LIMIT 1000
