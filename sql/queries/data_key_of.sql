SELECT id::text, subject, key_name, wrapped, coalesce(made_by = pg_current_xact_id_if_assigned(), false)
FROM pgsagaz.data_key WHERE subject = $1
