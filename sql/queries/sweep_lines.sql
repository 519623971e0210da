SELECT pgsagaz.limit_clear()
