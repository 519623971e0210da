SELECT pgsagaz.start_children($1, $2, $3, $4)
