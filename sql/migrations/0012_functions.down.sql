DROP FUNCTION pgsagaz.hand_back(uuid, bigint, bigint, boolean);
DROP FUNCTION pgsagaz.revert_children(uuid, text, text);
DROP FUNCTION pgsagaz.start_children(uuid, text, integer, boolean);
DROP FUNCTION pgsagaz.resume(uuid, text, text);
DROP FUNCTION pgsagaz.wait(uuid, bigint, bigint, text, timestamptz, double precision, boolean);
DROP FUNCTION pgsagaz.dissolve(uuid, bigint, boolean);
DROP FUNCTION pgsagaz.retry_later(uuid, text[], bigint, bigint, text, text, text, boolean, double precision, double precision, boolean);
DROP FUNCTION pgsagaz.begin(uuid, bigint, text, bigint, text, text[], text[], integer[], text[]);
DROP FUNCTION pgsagaz.settle(uuid, text[], bigint, bigint, text, text, text, integer, text, boolean, integer, json, text, text,
    double precision, text, text, integer, text, jsonb, text[], text[], integer[], text[]);
DROP FUNCTION pgsagaz.spawn(uuid, text[], text[], integer[], text[]);
DROP FUNCTION pgsagaz.fence(uuid, text[], bigint, bigint);
DROP FUNCTION pgsagaz.signal(uuid, text, json, text, integer, text, text);
DROP FUNCTION pgsagaz.command(uuid, text, text, json, bigint);
DROP FUNCTION pgsagaz.saga_by_key(text, text);
DROP FUNCTION pgsagaz.start(text, json, text, text[], integer, interval, uuid, text, integer, boolean, boolean);
DROP FUNCTION pgsagaz.hint(uuid, text, integer, bigint, text, text);
DROP FUNCTION pgsagaz.durable();
UPDATE pgsagaz.schema_info SET version = 11;
