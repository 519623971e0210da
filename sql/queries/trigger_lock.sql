-- Triggers of a saga that may not run too often at once start one after the other, so that each counts what the one
-- before has started.
SELECT pg_advisory_xact_lock(x'5047535A'::integer, hashtext('trigger ' || $1))
