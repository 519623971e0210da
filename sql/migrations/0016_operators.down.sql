DROP FUNCTION pgsagaz.restart(uuid, text, text[], text, text, uuid);
DROP TABLE pgsagaz.restart;
DROP FUNCTION pgsagaz.ask(uuid, text, text, text, text, jsonb, json);
DROP FUNCTION pgsagaz.audit_act(text, text, text, text, text, jsonb, text);
DROP FUNCTION pgsagaz.audit_write(uuid, text, text, text, text, text, jsonb);
DROP TABLE pgsagaz.audit_answer;
DROP TABLE pgsagaz.audit;
DROP FUNCTION pgsagaz.append_only();
UPDATE pgsagaz.schema_info SET version = 15;
