-- Lets one through and says when the next may follow; no row: not yet.
INSERT INTO pgsagaz.inbox_rate AS r (name, next_at) VALUES ($1, pgsagaz.now() + $2::interval)
ON CONFLICT (name) DO UPDATE SET next_at = greatest(r.next_at, pgsagaz.now()) + $2::interval
WHERE r.next_at <= pgsagaz.now()
RETURNING next_at
