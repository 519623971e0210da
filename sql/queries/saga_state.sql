SELECT state FROM pgsagaz.saga WHERE id = $1
