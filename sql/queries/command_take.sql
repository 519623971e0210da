-- Under the saga's lock.
DELETE FROM pgsagaz.command WHERE saga_id = $1 RETURNING id, kind, reason
