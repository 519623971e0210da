INSERT INTO pgsagaz.inbox_consumer (name, horizon, retention) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET horizon = excluded.horizon, retention = excluded.retention, seen_at = excluded.seen_at
