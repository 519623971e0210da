-- Several statements, for a test's database alone: from now on its clock can be put forward.
CREATE TABLE IF NOT EXISTS pgsagaz.test_clock (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), ahead interval NOT NULL);
INSERT INTO pgsagaz.test_clock (ahead) VALUES ('0') ON CONFLICT DO NOTHING;
CREATE OR REPLACE FUNCTION pgsagaz.now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM pgsagaz.test_clock';
