-- One at a time. Of the session, as DETACH ... CONCURRENTLY cannot be in a transaction.
SELECT pg_try_advisory_lock(x'5047535A'::integer, x'494E4243'::integer)
