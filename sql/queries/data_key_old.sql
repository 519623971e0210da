-- A page of the keys that are wrapped by any other key than $1.
SELECT id::text, key_name, wrapped FROM pgsagaz.data_key
WHERE key_name <> $1 AND id::text > $2 ORDER BY id::text LIMIT $3
