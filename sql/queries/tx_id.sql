-- The transaction's id; null: it has written nothing.
SELECT pg_current_xact_id_if_assigned()::text
