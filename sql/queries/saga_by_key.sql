SELECT coalesce(pgsagaz.saga_by_key($1, $2)::text, '')
