INSERT INTO pgsagaz.worker (id, host, pid, lock_key, lease, definitions) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO UPDATE SET beat_at = pgsagaz.now(), definitions = excluded.definitions
