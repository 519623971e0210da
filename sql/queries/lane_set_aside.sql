-- Gives the lane up for a while, after an error that nothing is known of. Without a job: sent off at once it
-- would fail at once.
UPDATE pgsagaz.lane SET worker = NULL, token = NULL, job_id = NULL, run_at = pgsagaz.now() + make_interval(secs => $4),
                        in_doubt = in_doubt OR $5, error = $6
WHERE saga_id = $1 AND id = $2 AND token = $3
