-- Seconds until the next thing falls due.
SELECT extract(epoch FROM least(
    (SELECT min(run_at) FROM pgsagaz.lane WHERE worker IS NULL AND job_id IS NULL AND run_at > pgsagaz.now() AND run_at < 'infinity'),
    (SELECT min(due_at) FROM pgsagaz.deadline)) - pgsagaz.now())::float8
