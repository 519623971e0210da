SELECT wait, coalesce(queues, '{}'), coalesce(missing, '{}') FROM pgsagaz.limit_enter($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
