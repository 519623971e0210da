-- Lets one through if it is not too early: $2 is the time between two, $3 how many may come at once. Who is
-- too early hears for how many seconds. Those of one name stand in line for the row, until the transaction ends.
WITH taken AS (
    INSERT INTO pgsagaz.inbox_rate AS r (name, next_at) VALUES ($1, pgsagaz.now() + $2::interval)
    ON CONFLICT (name) DO UPDATE SET next_at = greatest(r.next_at, pgsagaz.now()) + $2::interval
    WHERE r.next_at <= pgsagaz.now() + ($3::integer - 1) * $2::interval
    RETURNING name)
SELECT EXISTS (SELECT FROM taken),
       coalesce((SELECT extract(epoch FROM next_at - pgsagaz.now() - ($3::integer - 1) * $2::interval) FROM pgsagaz.inbox_rate WHERE name = $1), 0)::float8
