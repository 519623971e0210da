-- Jobs that Postgres says this process is running; a crash of Postgres may have lost their end.
SELECT id FROM pgsagaz.river_job
WHERE state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $1 AND attempted_at < now() - interval '5 seconds'
