SELECT id::text, coalesce(key_name, ''), created_at, wrapped_at, erased_at, coalesce(erased_by, ''), coalesce(reason, '')
FROM pgsagaz.data_key WHERE subject = $1 AND subject <> ''
