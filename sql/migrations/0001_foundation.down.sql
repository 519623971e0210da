DROP FUNCTION pgsagaz.uuid7();
DROP FUNCTION pgsagaz.now();
DROP TABLE pgsagaz.schema_info;
