-- Seconds until the next thing falls due. A lane that stands in line is called, and has a time only in case that it is not; or
-- it is told when to ask again.
SELECT extract(epoch FROM least(
    (SELECT run_at FROM pgsagaz.lane l
     WHERE worker IS NULL AND job_id IS NULL AND run_at > pgsagaz.now() AND run_at < 'infinity'
       AND NOT EXISTS (SELECT FROM pgsagaz.limit_place p WHERE p.saga_id = l.saga_id AND p.step = l.step AND p.lane = l.id AND p.at IS NULL
                                                                   AND p.asks_at IS DISTINCT FROM l.run_at)
     ORDER BY run_at LIMIT 1),
    (SELECT min(due_at) FROM pgsagaz.deadline)) - pgsagaz.now())::float8
