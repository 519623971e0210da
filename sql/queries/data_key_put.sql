-- Whoever comes second to a subject waits for the first's end here.
INSERT INTO pgsagaz.data_key (id, subject, key_name, wrapped) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
