DELETE FROM pgsagaz.worker WHERE id = $1
