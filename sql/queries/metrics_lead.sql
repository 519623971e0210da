-- One process leads: it holds the lease already, or nobody does, as one that lasts longer than any is of a clock that was set back. No row: another leads.
INSERT INTO pgsagaz.metrics_leader AS l (holder, until) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (only_row) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE l.holder = $1 OR l.until NOT BETWEEN clock_timestamp() AND clock_timestamp() + 2 * make_interval(secs => $2)
RETURNING extract(epoch FROM clock_timestamp())::float8
