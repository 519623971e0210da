SELECT id, version, existed
FROM pgsagaz.start_many(p_name => $1, p_ids => $2, p_inputs => $3, p_keys => $4, p_tags => $5, p_version => $6, p_timeout => $7,
                        p_traceparent => $8, p_max_bytes => $9, p_registered => $10)
