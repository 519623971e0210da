-- What every later migration stands on: the schema's own row, and the clock.

-- A process runs if its code is at least oldest_code (old pods must live through an expand/contract
-- upgrade) and if the schema is at least what its code asks for.
CREATE TABLE pgsagaz.schema_info (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version     integer NOT NULL,
    oldest_code integer NOT NULL,
    CHECK (oldest_code <= version)
);
INSERT INTO pgsagaz.schema_info (version, oldest_code) VALUES (1, 1);

-- The one clock of leases, timers and backoff. The test kit replaces this function to move time.
CREATE FUNCTION pgsagaz.now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT pg_catalog.clock_timestamp()';

-- Ids that sort by time, for callers that bring none (psql).
CREATE FUNCTION pgsagaz.uuid7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
            52, 1), 53, 1), 'hex')::uuid
    $$;
