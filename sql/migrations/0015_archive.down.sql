DROP INDEX pgsagaz.start_key_created_idx;
DROP FUNCTION pgsagaz.archive_retain(timestamptz, timestamptz);
DROP FUNCTION pgsagaz.archive_batch(timestamptz, integer);
DROP FUNCTION pgsagaz.archive_partition(date);
DROP FUNCTION pgsagaz.uuid7_at(timestamptz);
DROP TABLE pgsagaz.archive;
UPDATE pgsagaz.schema_info SET version = 14;
