SELECT graph, coalesce(extract(epoch FROM timeout), 0)::float8 FROM pgsagaz.definition WHERE name = $1 AND version = $2
