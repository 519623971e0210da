SELECT id, version, existed
FROM pgsagaz.start(p_name => $1, p_input => $2, p_key => $3, p_tags => $4, p_version => $5, p_timeout => $6,
                   p_id => $7, p_traceparent => $8, p_max_bytes => $9, p_registered => $10)
