SELECT queue, seconds, missing FROM pgsagaz.limit_leave($1, $2, $3)
