-- Published. If a crash of Postgres takes this back, they are sent again: no reason to wait for the disk.
WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
DELETE FROM pgsagaz.outbox_direct d USING quick WHERE d.event_id = ANY ($1::text[]::uuid[])
