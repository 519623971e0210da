SELECT id, token FROM pgsagaz.lane WHERE worker = $1
