SELECT pgsagaz.revert_children($1, $2, $3)
