SELECT queue, seconds FROM pgsagaz.limit_leave($1, $2)
