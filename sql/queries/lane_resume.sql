SELECT pgsagaz.resume($1, $2, $3)
