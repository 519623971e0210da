-- Under the saga's lock. The sender's key makes a second one of the same not count.
INSERT INTO pgsagaz.signal (saga_id, name, key, payload, sent_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (saga_id, name, key) DO NOTHING
