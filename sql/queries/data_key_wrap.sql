-- Only as it was read: whoever has erased it meanwhile, or wrapped it anew, has come first.
UPDATE pgsagaz.data_key SET key_name = $3, wrapped = $4, wrapped_at = pgsagaz.now() WHERE id = $1 AND wrapped = $2
