SELECT pgsagaz.hand_back($1, $2, $3, $4)
