-- What was taken out of the stream of these buckets and is not behind the cursor, or not done.
SELECT id, bucket, coalesce(key, ''), attempts, extract(epoch FROM least(next_at, pgsagaz.now() + interval '10 years') - pgsagaz.now())::float8, done
FROM pgsagaz.outbox_stuck WHERE bucket = ANY ($1::smallint[]) ORDER BY id
