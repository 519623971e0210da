-- FOR NO KEY UPDATE, not FOR SHARE: sixteen settlers that share starve a canceller for ten seconds.
SELECT name, version, state, input, coalesce(cause, 'null'), deadline, coalesce(traceparent, '')
FROM pgsagaz.saga WHERE id = $1 FOR NO KEY UPDATE
