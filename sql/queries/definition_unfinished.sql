SELECT count(*) FROM pgsagaz.saga WHERE name = $1 AND version = $2 AND ended_at IS NULL
