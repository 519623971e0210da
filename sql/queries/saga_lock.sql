-- FOR NO KEY UPDATE, not FOR SHARE: sixteen settlers that share starve a canceller for ten seconds.
SELECT name, version, state::text, input, coalesce(cause, 'null'), extract(epoch FROM deadline - pgsagaz.now())::float8, parent_id IS NOT NULL, paused_at IS NOT NULL,
       extract(epoch FROM pgsagaz.now() - created_at)::float8, coalesce(traceparent, '')
FROM pgsagaz.saga WHERE id = $1 FOR NO KEY UPDATE
