-- Not waiting: after a reconnect the server may still think that the old session lives. The beats carry the worker
-- until the next session then.
SELECT pg_try_advisory_lock($1, $2)
