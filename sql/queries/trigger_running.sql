-- Sagas of a name that have not ended: each has a lane.
SELECT count(DISTINCT l.saga_id) FROM pgsagaz.lane l JOIN pgsagaz.saga s ON s.id = l.saga_id WHERE s.name = $1
