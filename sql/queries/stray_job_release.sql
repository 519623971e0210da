UPDATE pgsagaz.river_job SET state = 'available', scheduled_at = now()
WHERE id = ANY ($1) AND state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $2
