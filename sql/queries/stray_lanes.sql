SELECT saga_id::text, id, token FROM pgsagaz.lane WHERE worker = $1
