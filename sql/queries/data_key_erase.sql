SELECT done_at, done_by, why, before, unfinished, pending FROM pgsagaz.erase($1, $2, $3, $4)
