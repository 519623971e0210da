SELECT id::text, version, existed FROM pgsagaz.restart($1, $2, $3, $4, $5, $6)
