DROP FUNCTION pgsagaz.limit_clear();
DROP FUNCTION pgsagaz.limit_leave(uuid, text);
DROP FUNCTION pgsagaz.limit_enter(uuid, text[], bigint, bigint, text, text, text, text, integer, interval);
DROP FUNCTION pgsagaz.limit_call(text, text, bigint);
DROP TABLE pgsagaz.limit_place;
DROP TABLE pgsagaz.limit_line;
UPDATE pgsagaz.schema_info SET version = 17;
