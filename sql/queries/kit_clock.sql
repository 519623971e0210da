-- Several statements, for a test's database alone: from now on its clock can be put forward.
CREATE TABLE pgsagaz.test_clock (ahead interval NOT NULL);
INSERT INTO pgsagaz.test_clock VALUES ('0');
CREATE OR REPLACE FUNCTION pgsagaz.now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM pgsagaz.test_clock';
