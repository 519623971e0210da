SELECT pgsagaz.command($1, $2, $3, $4)
