SELECT b.state, b.input, b.seconds_left, b.is_child, extract(epoch FROM pgsagaz.now() - s.created_at)::float8, coalesce(s.traceparent, '')
FROM pgsagaz.begin($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) b, pgsagaz.saga s WHERE s.id = $1
