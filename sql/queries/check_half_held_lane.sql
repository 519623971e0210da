-- A lane with a worker and no token, or the other way round: its fence is broken. (Not a CHECK: see saga_state.)
SELECT saga_id::text, step, 'lane ' || id || ' has ' || CASE WHEN worker IS NULL THEN 'a token and no worker' ELSE 'a worker and no token' END
FROM pgsagaz.lane WHERE (worker IS NULL) <> (token IS NULL)
