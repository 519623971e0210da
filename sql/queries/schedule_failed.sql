-- Its slots stay due.
UPDATE pgsagaz.schedule SET error = $2, retry_at = pgsagaz.now() + make_interval(secs => $3) WHERE name = $1
