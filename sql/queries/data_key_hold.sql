SELECT pgsagaz.data_key_hold($1)
