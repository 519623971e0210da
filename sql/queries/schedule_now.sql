SELECT pgsagaz.now()
