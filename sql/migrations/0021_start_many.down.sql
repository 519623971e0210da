DROP FUNCTION pgsagaz.start_many(text, uuid[], json[], text[], text[], integer, interval, text, integer, boolean);
UPDATE pgsagaz.schema_info SET version = (SELECT max(version) FROM pgsagaz.schema_applied WHERE version < 21);
