-- Seconds until a schedule is due; null: none will be.
SELECT extract(epoch FROM min(greatest(next_at, retry_at)) - pgsagaz.now())::float8
FROM pgsagaz.schedule WHERE paused_at IS NULL AND next_at < 'infinity'
