-- After settle_next.sql, which has proved that the saga is running and holds it: that was its last step.
UPDATE pgsagaz.saga SET state = 'completed', ended_at = pgsagaz.now() WHERE id = $1
