-- What no bucket stands for, no relay publishes.
SELECT '', '', format('bucket %s of the outbox has no cursor', g)
FROM generate_series(0, 255) AS g WHERE NOT EXISTS (SELECT FROM pgsagaz.outbox_bucket b WHERE b.bucket = g)
