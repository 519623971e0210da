SELECT state, input, seconds_left, is_child FROM pgsagaz.begin($1, $2, $3, $4, $5, $6, $7, $8, $9)
