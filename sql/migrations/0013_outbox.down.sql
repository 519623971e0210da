DROP FUNCTION pgsagaz.outbox_rotate(bigint, interval, boolean);
DROP FUNCTION pgsagaz.outbox_truncate(smallint, boolean);
DROP FUNCTION pgsagaz.outbox_archive_drop(timestamptz);
DROP FUNCTION pgsagaz.outbox_archive_day(date);
DROP FUNCTION pgsagaz.outbox_rebase();
DROP FUNCTION pgsagaz.outbox_leave(bigint);
DROP FUNCTION pgsagaz.outbox_merge(bigint, bigint, bigint);
DROP FUNCTION pgsagaz.outbox_release(bigint, bigint, smallint[], text, text, bigint);
DROP FUNCTION pgsagaz.outbox_take(bigint, integer);
DROP FUNCTION pgsagaz.outbox_beat(bigint, bigint, double precision);
DROP FUNCTION pgsagaz.outbox_due(integer);
DROP FUNCTION pgsagaz.publish(text, bytea, text, text, text, jsonb, uuid, text, timestamptz, boolean, boolean, integer);
DROP FUNCTION pgsagaz.outbox_room(integer);
DROP FUNCTION pgsagaz.outbox_consumed(xid8, bigint, pg_snapshot, pg_snapshot, bigint);
DROP FUNCTION pgsagaz.outbox_bucket_of(text, uuid);
DROP TABLE pgsagaz.outbox_pressure, pgsagaz.outbox_archive, pgsagaz.outbox_scheduled, pgsagaz.outbox_dead, pgsagaz.outbox_stuck,
    pgsagaz.outbox_bucket, pgsagaz.outbox_cursor, pgsagaz.outbox_relay, pgsagaz.outbox_state, pgsagaz.outbox;
DROP SEQUENCE pgsagaz.outbox_id_seq;
UPDATE pgsagaz.schema_info SET version = 12;
