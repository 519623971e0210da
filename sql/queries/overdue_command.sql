-- A command that no job tells a worker of, or that no live worker can obey.
SELECT c.saga_id::text, '', c.kind || ' was asked for at ' || date_trunc('second', c.created_at) || CASE
           WHEN NOT w.lives THEN ', and no live worker has ' || s.name || ' version ' || s.version
           ELSE ', and has no job' END
FROM pgsagaz.command c JOIN pgsagaz.saga s ON s.id = c.saga_id,
     LATERAL (SELECT EXISTS (SELECT FROM pgsagaz.worker w WHERE w.definitions @> ARRAY[s.name || '/' || s.version]
                                                            AND w.beat_at > pgsagaz.now() - w.lease) AS lives) w
WHERE c.created_at <= pgsagaz.now() - $1::interval
  AND NOT (w.lives AND EXISTS (SELECT FROM pgsagaz.river_job j
                               WHERE j.id = c.job_id AND j.state IN ('available', 'running', 'retryable', 'scheduled', 'pending')))
