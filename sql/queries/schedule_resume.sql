UPDATE pgsagaz.schedule SET paused_at = NULL, retry_at = NULL, next_at = $2 WHERE name = $1
