DELETE FROM pgsagaz.river_job WHERE id = $1
