DELETE FROM pgsagaz.schedule WHERE name = $1
