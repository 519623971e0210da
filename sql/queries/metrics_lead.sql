-- One process leads: it holds the lease already, or nobody does. No row: another leads.
INSERT INTO pgsagaz.metrics_leader AS l (holder, until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (only_row) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE l.holder = $1 OR l.until < clock_timestamp()
RETURNING extract(epoch FROM clock_timestamp())::float8
