-- What lies ahead of the clock and cannot: the clock was set back, or a worker's own, by which River writes when a job that has
-- failed is due again, is ahead. A beat counts from now, so that whoever dies is missed after a lease. A job that is to be had is
-- to be had now. $1: queues; $2: what is no later than that is left alone, as it will be due in a moment.
WITH beats AS (
    UPDATE pgsagaz.worker SET beat_at = pgsagaz.now()
    WHERE id IN (SELECT id FROM pgsagaz.worker WHERE beat_at > pgsagaz.now() + interval '1 second' FOR UPDATE SKIP LOCKED)
), jobs AS (
    UPDATE pgsagaz.river_job SET scheduled_at = now()
    WHERE id IN (SELECT j.id FROM unnest($1::text[]) q(name), generate_series(1, 4) AS p(priority),
                      LATERAL (SELECT r.id FROM pgsagaz.river_job r
                               WHERE r.state = 'available' AND r.queue = q.name AND r.priority = p.priority AND r.scheduled_at > now() + $2::interval
                               ORDER BY r.scheduled_at, r.id LIMIT 1000 FOR UPDATE SKIP LOCKED) j)
    RETURNING queue
)
SELECT DISTINCT queue FROM jobs
