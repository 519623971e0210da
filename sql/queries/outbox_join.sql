INSERT INTO pgsagaz.outbox_relay (name, lease) VALUES ($1, $2) RETURNING epoch
