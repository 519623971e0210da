-- With one of the data keys, to try whether the key-encryption key is at hand.
SELECT coalesce(key_name, ''), count(*), min(id::text), coalesce((array_agg(wrapped ORDER BY id::text))[1], '')
FROM pgsagaz.data_key GROUP BY key_name ORDER BY key_name NULLS LAST
