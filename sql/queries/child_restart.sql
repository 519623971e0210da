UPDATE pgsagaz.child SET state = NULL WHERE parent_id = $1 AND step = $2 AND state = 'compensated'
