DROP FUNCTION pgsagaz.erase(text, text, text, boolean);
DROP FUNCTION pgsagaz.data_key_hold(uuid);
DROP FUNCTION pgsagaz.payload_key(bytea);
DROP TABLE pgsagaz.data_key;
UPDATE pgsagaz.schema_info SET version = 19;
