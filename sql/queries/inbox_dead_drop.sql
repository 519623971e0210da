SELECT pgsagaz.inbox_drop($1, $2, $3)
