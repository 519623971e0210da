UPDATE pgsagaz.schedule SET paused_at = coalesce(paused_at, pgsagaz.now()) WHERE name = $1
