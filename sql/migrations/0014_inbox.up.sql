-- What consumers have taken, and will not take again. An entry commits with the handler's writes.
--
-- Partitions by the time in a UUIDv7, so that old entries are dropped and not deleted. Ids of any other make
-- become hashes that begin with ff and lie in a partition of their own. There is no DEFAULT partition: once a
-- row lies in it, the partition that the row belongs to can no longer be made.
CREATE TABLE pgsagaz.consumer_inbox (
    event_id               uuid NOT NULL,
    consumer_name          text NOT NULL,
    source_topic           text NOT NULL,
    event_type             text NOT NULL,
    payload                bytea,              -- only where the consumer keeps it
    consumed_at            timestamptz NOT NULL DEFAULT pgsagaz.now(),
    processing_duration_ms integer,            -- of the handler; null: a claim without one
    foreign_id             text,               -- what event_id was made of, where it is a hash
    PRIMARY KEY (consumer_name, event_id)
) PARTITION BY RANGE (event_id);
CREATE INDEX idx_consumer_inbox_cleanup ON pgsagaz.consumer_inbox (consumer_name, consumed_at);

CREATE TABLE pgsagaz.consumer_inbox_foreign PARTITION OF pgsagaz.consumer_inbox
    FOR VALUES FROM ('ff000000-0000-0000-0000-000000000000') TO (MAXVALUE);

-- What every claim reads. Entries below a floor may be gone, so what lies below it is refused.
CREATE TABLE pgsagaz.inbox_state (
    only_row      boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    floor         uuid NOT NULL,               -- of UUIDv7s
    ceiling       uuid NOT NULL,               -- from floor to here there are partitions, without a gap
    foreign_floor timestamptz NOT NULL,        -- of the others: when they were sent, if that is known
    cleaning      timestamptz NOT NULL DEFAULT '-infinity', -- until when a cleanup has this to itself
    CHECK (floor <= ceiling)
);
-- Partitions begin with the first day whose UUIDv7s keep their value. What is made first reaches from there
-- to today, so that a topic that is older than this schema can be read.
INSERT INTO pgsagaz.inbox_state (floor, ceiling, foreign_floor)
    VALUES ('016f5e66-e800-0000-0000-000000000000', '016f5e66-e800-0000-0000-000000000000', '-infinity');

-- The partitions between floor and ceiling, and those below that are still to be dropped.
CREATE TABLE pgsagaz.inbox_partition (
    name    text PRIMARY KEY,
    lower   uuid NOT NULL UNIQUE,
    upper   uuid NOT NULL UNIQUE,
    late    boolean NOT NULL,                  -- made by a claim that needed it, and not ahead of time
    made_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    CHECK (lower < upper)
);

-- Who consumes, and for how long his broker may deliver a message again: entries are kept as long.
CREATE TABLE pgsagaz.inbox_consumer (
    name      text PRIMARY KEY,
    horizon   interval NOT NULL,
    retention interval,                        -- null: this consumer never cleans up
    seen_at   timestamptz NOT NULL DEFAULT pgsagaz.now()
);

-- Messages that have failed and are tried again. Written in a transaction of its own, as the one that failed
-- was rolled back. Removed by the one that goes well, or soon after it if that knew of no failure.
CREATE TABLE pgsagaz.inbox_failure (
    consumer_name text NOT NULL,
    event_id      uuid NOT NULL,
    source_topic  text NOT NULL,
    event_type    text NOT NULL,
    attempts      integer NOT NULL CHECK (attempts > 0),
    error         text NOT NULL,
    first_at      timestamptz NOT NULL DEFAULT pgsagaz.now(),
    last_at       timestamptz NOT NULL DEFAULT pgsagaz.now(),
    PRIMARY KEY (consumer_name, event_id)
) WITH (fillfactor = 70);

-- Messages that were given up, whole, until somebody redrives or drops them.
CREATE TABLE pgsagaz.inbox_dead (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_name text NOT NULL,
    event_id      uuid NOT NULL,               -- as it is, or would be, in consumer_inbox
    message_id    text NOT NULL,
    source        text NOT NULL,
    attempt       text NOT NULL,
    source_topic  text NOT NULL,
    key           text NOT NULL,
    event_type    text NOT NULL,
    payload       bytea NOT NULL,
    headers       jsonb NOT NULL,
    traceparent   text NOT NULL,
    sent_at       timestamptz,
    reason        text NOT NULL CHECK (reason IN ('attempts', 'terminal', 'no message', 'too old', 'from the future')),
    error         text NOT NULL,
    attempts      integer NOT NULL,
    first_at      timestamptz NOT NULL,
    died_at       timestamptz NOT NULL DEFAULT pgsagaz.now(),
    redrives      integer NOT NULL DEFAULT 0,
    redrive       uuid,                        -- asked for, as this attempt
    UNIQUE (consumer_name, event_id)
);
CREATE INDEX inbox_dead_consumer_idx ON pgsagaz.inbox_dead (consumer_name, id);
CREATE INDEX inbox_dead_redrive_idx ON pgsagaz.inbox_dead (consumer_name, id) WHERE redrive IS NOT NULL;

-- How far partitions of a log were dealt with, where that is not left to the broker: the offset of the next message.
CREATE TABLE pgsagaz.inbox_offset (
    consumer_name text NOT NULL,
    topic         text NOT NULL,
    partition     integer NOT NULL CHECK (partition >= 0),
    next_offset   bigint NOT NULL CHECK (next_offset >= 0),
    resets        bigint NOT NULL DEFAULT 0,          -- how often it was set back: what was counted before says nothing of the log after it
    moved_at      timestamptz NOT NULL DEFAULT pgsagaz.now(),
    PRIMARY KEY (consumer_name, topic, partition)
) WITH (fillfactor = 50);

-- When the next event of a trigger with a rate may be let through.
CREATE TABLE pgsagaz.inbox_rate (
    name    text PRIMARY KEY,
    next_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The smallest UUIDv7 of a time, and the time of a UUIDv7.
CREATE FUNCTION pgsagaz.inbox_bound(p_at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT rpad(lpad(to_hex((extract(epoch FROM p_at) * 1000)::bigint), 12, '0'), 32, '0')::uuid $$;

CREATE FUNCTION pgsagaz.inbox_time(p_id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT to_timestamp(('x' || left(replace(p_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) $$;

-- A UUID (version 8) of a foreign id: ff, and 114 bits of SHA-256. Go computes the same.
CREATE FUNCTION pgsagaz.inbox_hash(p_source text, p_id text) RETURNS uuid
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    h bytea := substring(sha256(convert_to(p_source, 'UTF8') || '\x00'::bytea || convert_to(p_id, 'UTF8')) FROM 1 FOR 16);
BEGIN
    h := set_byte(h, 0, 255);
    h := set_byte(h, 6, get_byte(h, 6) & 15 | 128);
    h := set_byte(h, 8, get_byte(h, 8) & 63 | 128);
    RETURN encode(h, 'hex')::uuid;
END
$$;

-- What an event is called in consumer_inbox. The rule knows no clock: an id means the same for ever.
CREATE FUNCTION pgsagaz.inbox_event_id(p_source text, p_id text) RETURNS uuid
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    id uuid;
BEGIN
    IF p_id ~* '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$' THEN
        id := p_id::uuid;
        IF id >= '016f5e66-e800-0000-0000-000000000000' AND id < '03bb2cc3-d800-0000-0000-000000000000' THEN -- 2020 to 2100
            RETURN id;
        END IF;
    END IF;
    RETURN pgsagaz.inbox_hash(p_source, p_id);
END
$$;

-- Makes partitions up to p_until, one a day, and one for all the days that nobody made in time. Returns
-- how many. CREATE and ATTACH, as CREATE ... PARTITION OF would lock out every claim.
CREATE FUNCTION pgsagaz.inbox_make_partitions(p_until timestamptz, p_late boolean DEFAULT false) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    made  integer := 0;
    lower timestamptz;
    upper timestamptz;
    today timestamptz := date_trunc('day', pgsagaz.now(), 'UTC');
    name  text;
BEGIN
    -- One at a time. Whoever waits here sees in the next statement what the one before him made.
    PERFORM pg_advisory_xact_lock(x'5047535A'::integer, x'494E4258'::integer);
    SELECT pgsagaz.inbox_time(s.ceiling) INTO lower FROM pgsagaz.inbox_state s;
    WHILE lower <= p_until LOOP
        upper := greatest(lower + interval '1 day', today);
        name := 'consumer_inbox_' || to_char(lower AT TIME ZONE 'UTC', 'YYYYMMDD');
        EXECUTE format('CREATE TABLE pgsagaz.%I (LIKE pgsagaz.consumer_inbox INCLUDING DEFAULTS)', name);
        EXECUTE format('ALTER TABLE pgsagaz.consumer_inbox ATTACH PARTITION pgsagaz.%I FOR VALUES FROM (%L) TO (%L)',
                       name, pgsagaz.inbox_bound(lower), pgsagaz.inbox_bound(upper));
        INSERT INTO pgsagaz.inbox_partition (name, lower, upper, late)
            VALUES (name, pgsagaz.inbox_bound(lower), pgsagaz.inbox_bound(upper), p_late AND lower > '2020-01-01 00:00Z');
        UPDATE pgsagaz.inbox_state SET ceiling = pgsagaz.inbox_bound(upper);
        IF p_late AND lower > '2020-01-01 00:00Z' THEN
            RAISE WARNING 'pgsagaz: % was made by a claim that needed it: nobody makes the inbox''s partitions ahead', name
                USING HINT = 'A running consumer does, and so does pgsagaz inbox cleanup.';
        END IF;
        lower := upper;
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- Drops a partition that has been detached.
CREATE FUNCTION pgsagaz.inbox_drop_partition(p_name text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    DELETE FROM pgsagaz.inbox_partition p USING pgsagaz.inbox_state s WHERE p.name = p_name AND p.upper <= s.floor;
    IF FOUND THEN
        EXECUTE format('DROP TABLE IF EXISTS pgsagaz.%I', p_name);
    END IF;
END
$$;

-- Claims events for a consumer in the caller's transaction, and says of each, in their order: first, duplicate,
-- too old, from the future. The ids must be distinct. What another transaction has claimed is waited for: it is a
-- duplicate if that one commits, and first if it rolls back.
--
-- The entries are written in the order of the ids, so that two batches of the same events, in opposite
-- order, wait for each other one way round.
CREATE FUNCTION pgsagaz.inbox_claims(
    p_consumer text, p_ids uuid[], p_foreign text[], p_topics text[], p_types text[], p_payloads bytea[], p_sent timestamptz[],
    p_took integer)
    RETURNS text[]
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    s        pgsagaz.inbox_state;
    id       uuid;
    highest  uuid;
    fresh    uuid[];
    outcomes text[];
    aliens   constant uuid := 'ff000000-0000-0000-0000-000000000000';
BEGIN
    IF octet_length(p_consumer) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'pgsagaz: the name of a consumer must have 1 to 255 bytes' USING ERRCODE = 'PS007';
    END IF;
    -- As pgsagaz.durable does, without the call: what is acked must not be lost.
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT * INTO s FROM pgsagaz.inbox_state;
    ELSE -- it must not trust a floor that was raised since its snapshot; this fails then (40001)
        SELECT * INTO s FROM pgsagaz.inbox_state FOR SHARE;
    END IF;
    FOREACH id IN ARRAY p_ids LOOP
        IF id >= coalesce(highest, s.ceiling) AND id < aliens THEN
            highest := id;
        END IF;
    END LOOP;
    IF highest IS NOT NULL THEN
        PERFORM pgsagaz.inbox_make_partitions(least(pgsagaz.inbox_time(highest), pgsagaz.now() + interval '31 days'), true);
        SELECT * INTO s FROM pgsagaz.inbox_state;
    END IF;

    IF cardinality(p_ids) = 1 AND p_ids[1] < aliens THEN -- the same as below, at a third of the cost
        IF p_ids[1] < s.floor THEN
            RETURN '{too old}';
        ELSIF p_ids[1] >= s.ceiling THEN
            RETURN '{from the future}';
        END IF;
        INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, payload, processing_duration_ms)
            VALUES (p_ids[1], p_consumer, p_topics[1], p_types[1], p_payloads[1], p_took)
            ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN '{first}';
        END IF;
        RETURN '{duplicate}';
    END IF;

    WITH entry AS (
        INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, payload, processing_duration_ms, foreign_id)
        SELECT m.id, p_consumer, m.topic, m.type, m.payload, p_took, m.alien
        FROM unnest(p_ids, p_foreign, p_topics, p_types, p_payloads, p_sent) AS m(id, alien, topic, type, payload, sent)
        WHERE m.id >= s.floor AND m.id < s.ceiling OR m.id >= aliens AND (m.sent IS NULL OR m.sent >= s.foreign_floor)
        ORDER BY m.id
        ON CONFLICT DO NOTHING
        RETURNING event_id)
    SELECT array_agg(event_id) INTO fresh FROM entry;

    -- An entry of a foreign id may have been cleaned up between the reading of the floor and the INSERT. Then
    -- the floor had been raised before that, and is seen now.
    IF fresh[1] IS NOT NULL AND p_sent <> '{}' AND EXISTS (
        SELECT FROM unnest(p_ids, p_sent) AS m(id, sent), pgsagaz.inbox_state now
        WHERE m.id >= aliens AND m.sent >= s.foreign_floor AND m.sent < now.foreign_floor) THEN
        RAISE EXCEPTION 'pgsagaz: the inbox is being cleaned up: try again' USING ERRCODE = '40001';
    END IF;

    SELECT array_agg(CASE WHEN m.id = ANY (fresh) THEN 'first'
                          WHEN m.id < s.floor OR m.id >= aliens AND m.sent < s.foreign_floor THEN 'too old'
                          WHEN m.id >= s.ceiling AND m.id < aliens THEN 'from the future'
                          ELSE 'duplicate' END ORDER BY m.n) INTO outcomes
        FROM unnest(p_ids, p_sent) WITH ORDINALITY AS m(id, sent, n);
    RETURN outcomes;
END
$$;

-- Claims one event, for psql and other languages. True: the first time. It raises PS030 for an event that is
-- older than what the inbox remembers, and PS031 for one whose time is more than 31 days ahead.
CREATE FUNCTION pgsagaz.inbox_claim(
    p_consumer text, p_id text, p_source text DEFAULT '', p_topic text DEFAULT '', p_type text DEFAULT '',
    p_payload bytea DEFAULT NULL, p_sent timestamptz DEFAULT NULL)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    event   uuid := pgsagaz.inbox_event_id(p_source, p_id);
    outcome text;
BEGIN
    IF p_id IS NULL OR p_id = '' OR event IS NULL THEN
        RAISE EXCEPTION 'pgsagaz: inbox_claim needs an event id' USING ERRCODE = 'PS007';
    END IF;
    outcome := (pgsagaz.inbox_claims(p_consumer, ARRAY[event], ARRAY[CASE WHEN event::text LIKE 'ff%' THEN p_id END],
        ARRAY[p_topic], ARRAY[p_type], ARRAY[p_payload], ARRAY[p_sent], NULL))[1];
    IF outcome = 'too old' THEN
        RAISE EXCEPTION 'pgsagaz: event % is older than what the inbox remembers', p_id USING ERRCODE = 'PS030';
    ELSIF outcome = 'from the future' THEN
        RAISE EXCEPTION 'pgsagaz: the time of event % lies more than 31 days ahead', p_id USING ERRCODE = 'PS031';
    END IF;
    RETURN outcome = 'first';
END
$$;

-- Has dead letters handled again. Each gets an attempt id of its own, under which it takes effect once. One that is under
-- way stays as it is. It gives the ids of those that were not.
CREATE FUNCTION pgsagaz.inbox_redrive(p_ids bigint[], p_actor text DEFAULT NULL, p_reason text DEFAULT '') RETURNS SETOF bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    d pgsagaz.inbox_dead;
BEGIN
    FOR d IN UPDATE pgsagaz.inbox_dead SET redrive = pgsagaz.uuid7(), redrives = redrives + 1
             WHERE id = ANY (p_ids) AND redrive IS NULL RETURNING * LOOP
        PERFORM pgsagaz.audit_act('inbox', d.id::text, 'redrive', p_actor, p_reason,
                                  jsonb_build_object('consumer', d.consumer_name, 'event', d.event_id, 'type', d.event_type));
        RETURN NEXT d.id;
    END LOOP;
END
$$;

-- Forgets dead letters, and gives the ids of those there were. Their entries in consumer_inbox stay: a redelivery is a
-- duplicate.
CREATE FUNCTION pgsagaz.inbox_drop(p_ids bigint[], p_actor text DEFAULT NULL, p_reason text DEFAULT '') RETURNS SETOF bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    d pgsagaz.inbox_dead;
BEGIN
    FOR d IN DELETE FROM pgsagaz.inbox_dead WHERE id = ANY (p_ids) RETURNING * LOOP
        PERFORM pgsagaz.audit_act('inbox', d.id::text, 'drop', p_actor, p_reason,
                                  jsonb_build_object('consumer', d.consumer_name, 'event', d.event_id, 'type', d.event_type));
        RETURN NEXT d.id;
    END LOOP;
END
$$;

UPDATE pgsagaz.schema_info SET version = 14;
