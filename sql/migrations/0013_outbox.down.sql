DROP TABLE pgsagaz.outbox;
UPDATE pgsagaz.schema_info SET version = 12;
