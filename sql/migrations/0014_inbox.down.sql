DROP FUNCTION pgsagaz.inbox_drop, pgsagaz.inbox_redrive, pgsagaz.inbox_claim, pgsagaz.inbox_claims, pgsagaz.inbox_drop_partition, pgsagaz.inbox_make_partitions,
    pgsagaz.inbox_event_id, pgsagaz.inbox_hash, pgsagaz.inbox_bound, pgsagaz.inbox_time;
DROP TABLE pgsagaz.inbox_offset, pgsagaz.inbox_rate, pgsagaz.inbox_dead, pgsagaz.inbox_failure, pgsagaz.inbox_consumer,
    pgsagaz.inbox_partition, pgsagaz.inbox_state, pgsagaz.consumer_inbox;
UPDATE pgsagaz.schema_info SET version = 13;
