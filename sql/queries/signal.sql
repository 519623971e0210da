SELECT pgsagaz.signal($1, $2, $3, $4, $5)
