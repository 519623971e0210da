SELECT pgsagaz.inbox_redrive($1, $2, $3)
