-- After settle_first.sql, which has proved that the lane is nobody's and holds it.
UPDATE pgsagaz.lane SET step = $3, worker = $4, token = $5 WHERE saga_id = $1 AND id = $2
