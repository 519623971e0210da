-- After settle_next.sql, which has proved whose the lane is and holds it.
DELETE FROM pgsagaz.lane WHERE saga_id = $1 AND id = $2
