-- River gives out what has priority 1 first, and as long as there is any, nothing else. So that this starves nothing, the oldest
-- few of each queue and priority that have waited for a minute are raised to it. $1: queues; $2: how few.
UPDATE pgsagaz.river_job SET priority = 1
WHERE id IN (SELECT j.id FROM unnest($1::text[]) q(name), generate_series(2, 4) AS p(priority),
                  LATERAL (SELECT r.id FROM pgsagaz.river_job r
                           WHERE r.state = 'available' AND r.queue = q.name AND r.priority = p.priority AND r.scheduled_at < now() - interval '1 minute'
                           ORDER BY r.scheduled_at, r.id LIMIT $2::integer FOR UPDATE SKIP LOCKED) j)
