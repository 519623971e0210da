-- A lane that is due, and that nobody will look at: no live worker has its saga's code, or no job tells one of it. (One that waits for
-- its turn behind others has a job.)
SELECT l.saga_id::text, l.step, 'due since ' || date_trunc('second', l.run_at) || CASE
           WHEN NOT w.lives THEN ', and no live worker has ' || s.name || ' version ' || s.version
           ELSE ', and has no job' END
FROM pgsagaz.lane l JOIN pgsagaz.saga s ON s.id = l.saga_id,
     LATERAL (SELECT EXISTS (SELECT FROM pgsagaz.worker w WHERE w.definitions @> ARRAY[s.name || '/' || s.version]
                                                            AND w.beat_at > pgsagaz.now() - w.lease) AS lives) w
WHERE l.worker IS NULL AND s.paused_at IS NULL AND l.run_at <= pgsagaz.now() - $1::interval
  AND NOT (w.lives AND EXISTS (SELECT FROM pgsagaz.river_job j
                               WHERE j.id = l.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending')))
