SELECT pg_advisory_unlock(x'5047535A'::integer, x'494E4243'::integer)
