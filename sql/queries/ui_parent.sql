-- Whose child a saga is, while it is not archived.
SELECT coalesce(parent_id::text, ''), coalesce(parent_step, '') FROM pgsagaz.saga WHERE id = $1
