-- What the consumers ask for that have been seen within their own horizon.
SELECT name, horizon, retention FROM pgsagaz.inbox_consumer
WHERE seen_at > pgsagaz.now() - greatest(horizon, interval '1 day')
ORDER BY horizon DESC
