UPDATE pgsagaz.river_job SET state = 'available' WHERE id = $1
