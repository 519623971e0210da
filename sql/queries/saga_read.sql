SELECT name, version, state, input, coalesce(cause, 'null'), deadline, coalesce(traceparent, '')
FROM pgsagaz.saga WHERE id = $1
