DROP TABLE pgsagaz.schedule;
UPDATE pgsagaz.schema_info SET version = 16;
