-- Under the saga's lock.
UPDATE pgsagaz.saga SET paused_at = pgsagaz.now() WHERE id = $1
