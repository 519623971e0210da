SELECT pgsagaz.dissolve($1, $2, $3)
