-- After settle_next.sql, which has proved whose the lane is and holds it.
UPDATE pgsagaz.lane SET step = $3, attempt = 0, crashes = 0, in_doubt = false, error = NULL WHERE saga_id = $1 AND id = $2
