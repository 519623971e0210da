-- Messages on their way to brokers. See the package outbox for how they move, and why so.

-- ids order the messages of a key, and are drawn by the writers. Not cached: a session's hoard would
-- turn the order of two writers round.
CREATE SEQUENCE pgsagaz.outbox_id_seq CACHE 1;

-- Written in the transaction they tell of, never updated, never deleted: a slot is truncated once
-- relays have published all that is in it. No CHECK: they are compiled anew with every INSERT, and are a seventh
-- of its cost; what writes here has looked, and check_outbox_malformed looks after it.
CREATE TABLE pgsagaz.outbox (
    id          bigint NOT NULL DEFAULT nextval('pgsagaz.outbox_id_seq'),
    slot        smallint NOT NULL,
    txid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    bucket      smallint NOT NULL,
    replayed    boolean NOT NULL DEFAULT false,
    event_id    uuid NOT NULL,
    topic       text NOT NULL,
    key         text,
    routing_key text NOT NULL,
    type        text NOT NULL,
    payload     bytea NOT NULL,
    headers     jsonb NOT NULL,
    traceparent text,
    saga_id     uuid,
    step        text,
    created_at  timestamptz NOT NULL DEFAULT pgsagaz.now()
) PARTITION BY LIST (slot);
ALTER TABLE pgsagaz.outbox ALTER COLUMN payload SET STORAGE EXTERNAL; -- what is gone in a second is not worth compressing
CREATE INDEX outbox_txid_idx ON pgsagaz.outbox (txid); -- what committed between two snapshots
CREATE INDEX outbox_id_idx ON pgsagaz.outbox (id);     -- the pages of a backlog
-- Rows live for seconds, and a truncated table needs no vacuum.
CREATE TABLE pgsagaz.outbox_0 PARTITION OF pgsagaz.outbox FOR VALUES IN (0) WITH (autovacuum_enabled = false);
CREATE TABLE pgsagaz.outbox_1 PARTITION OF pgsagaz.outbox FOR VALUES IN (1) WITH (autovacuum_enabled = false);
CREATE TABLE pgsagaz.outbox_2 PARTITION OF pgsagaz.outbox FOR VALUES IN (2) WITH (autovacuum_enabled = false);
CREATE TABLE pgsagaz.outbox_3 PARTITION OF pgsagaz.outbox FOR VALUES IN (3) WITH (autovacuum_enabled = false);

CREATE TABLE pgsagaz.outbox_state (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    slot              smallint NOT NULL DEFAULT 0,                -- where writers write; a hint, see outbox_truncate
    rotated_at        timestamptz NOT NULL DEFAULT pgsagaz.now(), -- when it became the current one
    first_id          bigint NOT NULL DEFAULT 1,                  -- the next to be drawn then
    truncated_id      bigint NOT NULL DEFAULT 0,                  -- the highest that was ever truncated away
    limited           boolean NOT NULL DEFAULT false,             -- there is a limit, in outbox_pressure
    direct_slot       smallint NOT NULL DEFAULT 0,                -- the same two for outbox_direct
    direct_rotated_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    system_identifier bigint NOT NULL                             -- transaction ids mean something in one cluster only
);
INSERT INTO pgsagaz.outbox_state (system_identifier) SELECT c.system_identifier FROM pg_control_system() c;

-- Relays that live. One that has not beaten for its lease is dead, and whoever notices takes its row away.
CREATE TABLE pgsagaz.outbox_relay (
    epoch      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the fence: never used again
    name       text NOT NULL,
    lease      interval NOT NULL,
    started_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    beat_at    timestamptz NOT NULL DEFAULT pgsagaz.now(),
    published  bigint NOT NULL DEFAULT 0,
    rate       double precision NOT NULL DEFAULT 0              -- events a second, of late
) WITH (fillfactor = 50);

-- How far buckets have been published: all that prev sees, and of what cur sees beyond, the ids up to
-- last_id. Only who holds the epoch moves it, and only forward.
CREATE TABLE pgsagaz.outbox_cursor (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch    bigint REFERENCES pgsagaz.outbox_relay,            -- null: free for the taking
    prev     pg_snapshot NOT NULL,
    cur      pg_snapshot,                                       -- null: nothing beyond prev
    last_id  bigint NOT NULL DEFAULT 0,
    moved_at timestamptz NOT NULL DEFAULT pgsagaz.now()
) WITH (fillfactor = 50);
INSERT INTO pgsagaz.outbox_cursor (prev) VALUES ('3:3:'); -- sees nothing

-- Which cursor tells of a bucket, and so who publishes it.
CREATE TABLE pgsagaz.outbox_bucket (
    bucket    smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 255),
    cursor_id bigint NOT NULL REFERENCES pgsagaz.outbox_cursor
) WITH (fillfactor = 50);
INSERT INTO pgsagaz.outbox_bucket (bucket, cursor_id) SELECT g, 1 FROM generate_series(0, 255) g;

-- Messages that were refused, and those of the same key that wait behind them. They have left the stream:
-- a row stays (done) until the cursor has passed it, so that nobody publishes it from there once more.
CREATE TABLE pgsagaz.outbox_stuck (
    LIKE pgsagaz.outbox,
    attempts integer NOT NULL DEFAULT 0,
    next_at  timestamptz NOT NULL DEFAULT pgsagaz.now(), -- infinity: when an operator says so
    error    text,
    stuck_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    done     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (id)
);
CREATE INDEX outbox_stuck_bucket_idx ON pgsagaz.outbox_stuck (bucket);
CREATE INDEX outbox_stuck_saga_idx ON pgsagaz.outbox_stuck (saga_id) WHERE saga_id IS NOT NULL;

-- Messages that were given up.
CREATE TABLE pgsagaz.outbox_dead (
    LIKE pgsagaz.outbox,
    attempts integer NOT NULL,
    error    text NOT NULL,
    stuck_at timestamptz NOT NULL,
    died_at  timestamptz NOT NULL DEFAULT pgsagaz.now(),
    holds    boolean NOT NULL, -- its key waits for it: the row in outbox_stuck is not done
    PRIMARY KEY (id)
);
CREATE INDEX outbox_dead_saga_idx ON pgsagaz.outbox_dead (saga_id) WHERE saga_id IS NOT NULL;
CREATE INDEX outbox_dead_topic_idx ON pgsagaz.outbox_dead (topic, id);
CREATE INDEX outbox_dead_key_idx ON pgsagaz.outbox_dead (key, id) WHERE key IS NOT NULL;

-- Messages that are not due yet.
CREATE TABLE pgsagaz.outbox_scheduled (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due_at      timestamptz NOT NULL,
    bucket      smallint NOT NULL,
    event_id    uuid NOT NULL,
    topic       text NOT NULL CHECK (topic <> ''),
    key         text,
    routing_key text NOT NULL,
    type        text NOT NULL CHECK (type <> ''),
    payload     bytea NOT NULL,
    headers     jsonb NOT NULL,
    traceparent text,
    saga_id     uuid,
    step        text
);
CREATE INDEX outbox_scheduled_due_idx ON pgsagaz.outbox_scheduled (due_at, id);

-- Messages that their writers publish themselves, right after the commit. Whoever has published one deletes its row;
-- what is still here when the lease ends goes the way of all messages. Dead rows pile up while somebody holds a
-- snapshot, but not for long: a slot whose rows are all gone is truncated, and its turn is over after some seconds.
CREATE TABLE pgsagaz.outbox_direct (
    slot         smallint NOT NULL,
    leased_until timestamptz NOT NULL,
    bucket       smallint NOT NULL,
    event_id     uuid NOT NULL,
    topic        text NOT NULL,
    key          text,
    routing_key  text NOT NULL,
    type         text NOT NULL,
    payload      bytea NOT NULL,
    headers      jsonb NOT NULL,
    traceparent  text,
    saga_id      uuid,
    step         text,
    created_at   timestamptz NOT NULL DEFAULT pgsagaz.now()
) PARTITION BY LIST (slot);
ALTER TABLE pgsagaz.outbox_direct ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX outbox_direct_event_idx ON pgsagaz.outbox_direct (event_id);
CREATE INDEX outbox_direct_lease_idx ON pgsagaz.outbox_direct (leased_until);
CREATE TABLE pgsagaz.outbox_direct_0 PARTITION OF pgsagaz.outbox_direct FOR VALUES IN (0) WITH (autovacuum_enabled = false);
CREATE TABLE pgsagaz.outbox_direct_1 PARTITION OF pgsagaz.outbox_direct FOR VALUES IN (1) WITH (autovacuum_enabled = false);

-- What was published, where an archive was asked for. A partition a day.
CREATE TABLE pgsagaz.outbox_archive (LIKE pgsagaz.outbox) PARTITION BY RANGE (created_at);
CREATE INDEX outbox_archive_id_idx ON pgsagaz.outbox_archive (id);

-- How much may be pending, where a limit was asked for: as counted when at_id was drawn.
CREATE TABLE pgsagaz.outbox_pressure (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    max_pending bigint NOT NULL,
    pending     bigint NOT NULL DEFAULT 0,
    at_id       bigint NOT NULL DEFAULT 0
);

-- What relays share out among themselves. Part of the stored format: package outbox computes the same.
CREATE FUNCTION pgsagaz.outbox_bucket_of(p_key text, p_event_id uuid) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN p_key IS NULL THEN get_byte(uuid_send(p_event_id), 15) ELSE get_byte(sha256(convert_to(p_key, 'UTF8')), 0) END::smallint $$;

-- Whether a row lies behind a cursor. Arithmetic: it asks nothing of the transaction.
CREATE FUNCTION pgsagaz.outbox_consumed(p_txid xid8, p_id bigint, p_prev pg_snapshot, p_cur pg_snapshot, p_last_id bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_visible_in_snapshot(p_txid, p_prev) OR p_cur IS NOT NULL AND p_id <= p_last_id AND pg_visible_in_snapshot(p_txid, p_cur) $$;

-- Refuses more messages than the limit leaves room for, if there is one. What was drawn since the last
-- count is taken for pending: right where no relay lives, and a second out of date where one does.
CREATE FUNCTION pgsagaz.outbox_room(p_count integer) RETURNS boolean -- true
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    p       pgsagaz.outbox_pressure;
    pending bigint;
BEGIN
    SELECT * INTO p FROM pgsagaz.outbox_pressure;
    IF FOUND THEN
        SELECT p.pending + s.last_value - p.at_id INTO pending FROM pgsagaz.outbox_id_seq s;
        IF pending + p_count > p.max_pending THEN
            RAISE EXCEPTION 'pgsagaz: the outbox is full: % messages are pending, the limit is %', pending, p.max_pending
                USING ERRCODE = 'PS020';
        END IF;
    END IF;
    RETURN true;
END
$$;

-- Publishes from SQL, in the caller's transaction. p_serialize takes the key's lock first, as
-- Message.Serialize does. p_wake sends NOTIFY inside the transaction, whose commit then waits for every
-- other notifying commit of the whole server; without it relays find the message by their poll.
CREATE FUNCTION pgsagaz.publish(
    p_topic text, p_payload bytea, p_key text DEFAULT NULL, p_type text DEFAULT NULL, p_routing_key text DEFAULT NULL,
    p_headers jsonb DEFAULT '{}', p_id uuid DEFAULT NULL, p_traceparent text DEFAULT NULL,
    p_not_before timestamptz DEFAULT NULL, p_serialize boolean DEFAULT false, p_wake boolean DEFAULT false,
    p_max_bytes integer DEFAULT 1048576)
    RETURNS uuid
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    event  uuid := coalesce(p_id, pgsagaz.uuid7());
    bucket smallint := pgsagaz.outbox_bucket_of(nullif(p_key, ''), event);
BEGIN
    IF coalesce(p_topic, '') = '' OR p_payload IS NULL THEN
        RAISE EXCEPTION 'pgsagaz: publish needs a topic and a payload' USING ERRCODE = 'PS007';
    END IF;
    IF octet_length(p_payload) > p_max_bytes THEN
        RAISE EXCEPTION 'pgsagaz: payload for topic % is % bytes, the limit is %', p_topic, octet_length(p_payload), p_max_bytes
            USING ERRCODE = 'PS008';
    END IF;
    IF jsonb_typeof(p_headers) <> 'object' OR EXISTS (SELECT FROM jsonb_each(p_headers) h WHERE jsonb_typeof(h.value) <> 'string') THEN
        RAISE EXCEPTION 'pgsagaz: headers for topic % are not an object of strings', p_topic USING ERRCODE = 'PS007';
    END IF;
    PERFORM pgsagaz.durable();
    IF (SELECT limited FROM pgsagaz.outbox_state) THEN
        PERFORM pgsagaz.outbox_room(1);
    END IF;
    IF p_serialize AND p_key <> '' THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(p_key, 0));
    END IF;
    IF p_not_before > pgsagaz.now() THEN
        INSERT INTO pgsagaz.outbox_scheduled (due_at, bucket, event_id, topic, key, routing_key, type, payload, headers, traceparent)
            VALUES (p_not_before, bucket, event, p_topic, nullif(p_key, ''), coalesce(p_routing_key, p_type, p_topic),
                    coalesce(p_type, p_topic), p_payload, p_headers, p_traceparent);
        RETURN event;
    END IF;
    INSERT INTO pgsagaz.outbox (slot, bucket, event_id, topic, key, routing_key, type, payload, headers, traceparent)
        SELECT s.slot, bucket, event, p_topic, nullif(p_key, ''), coalesce(p_routing_key, p_type, p_topic),
               coalesce(p_type, p_topic), p_payload, p_headers, p_traceparent
        FROM pgsagaz.outbox_state s;
    IF p_wake THEN
        PERFORM pg_notify('pgsagaz.outbox', bucket::text);
    END IF;
    RETURN event;
END
$$;

-- Moves messages that have become due into the stream, in the order in which they do. Only one mover at a
-- time, or their order would be lost. Returns how many, and the seconds until the next.
CREATE FUNCTION pgsagaz.outbox_due(p_limit integer, OUT moved integer, OUT next_in double precision)
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    moved := 0;
    IF NOT EXISTS (SELECT FROM pgsagaz.outbox_scheduled) OR NOT pg_try_advisory_xact_lock(1347637071, 0) THEN
        RETURN;
    END IF;
    PERFORM pgsagaz.durable();
    WITH due AS (
        DELETE FROM pgsagaz.outbox_scheduled d
        WHERE d.id IN (SELECT id FROM pgsagaz.outbox_scheduled WHERE due_at <= pgsagaz.now() ORDER BY due_at, id LIMIT p_limit)
        RETURNING d.*)
    INSERT INTO pgsagaz.outbox (slot, bucket, event_id, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step)
        SELECT s.slot, due.bucket, event_id, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step
        FROM due, pgsagaz.outbox_state s ORDER BY due.due_at, due.id;
    GET DIAGNOSTICS moved = ROW_COUNT;
    SELECT extract(epoch FROM min(due_at) - pgsagaz.now()) INTO next_in FROM pgsagaz.outbox_scheduled;
END
$$;

-- Says that a relay lives, and buries those that do not. No row: it was taken for dead itself.
CREATE FUNCTION pgsagaz.outbox_beat(p_epoch bigint, p_published bigint, p_rate double precision,
                                    OUT relays integer, OUT rank integer, OUT mine integer, OUT free integer)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    dead bigint;
BEGIN
    UPDATE pgsagaz.outbox_relay SET beat_at = pgsagaz.now(), published = p_published, rate = p_rate WHERE epoch = p_epoch;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- A beat that is yet to come is of a clock that was set back: it counts from now.
    UPDATE pgsagaz.outbox_relay SET beat_at = pgsagaz.now() WHERE epoch IN (
        SELECT r.epoch FROM pgsagaz.outbox_relay r WHERE r.beat_at > pgsagaz.now() + interval '1 second' FOR UPDATE SKIP LOCKED);
    -- Two that take each other for dead: each holds its own row by now, and skips the other's.
    FOR dead IN SELECT r.epoch FROM pgsagaz.outbox_relay r WHERE r.beat_at + r.lease < pgsagaz.now() FOR UPDATE SKIP LOCKED LOOP
        UPDATE pgsagaz.outbox_cursor SET epoch = NULL WHERE epoch = dead;
        DELETE FROM pgsagaz.outbox_relay WHERE epoch = dead;
    END LOOP;
    SELECT count(*), count(*) FILTER (WHERE r.epoch < p_epoch) INTO relays, rank FROM pgsagaz.outbox_relay r;
    SELECT count(*) FILTER (WHERE c.epoch = p_epoch), count(*) FILTER (WHERE c.epoch IS NULL) INTO mine, free
        FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id;
    RETURN NEXT;
END
$$;

-- Takes up to p_count buckets that nobody has, with cursors of their own. Returns how many.
CREATE FUNCTION pgsagaz.outbox_take(p_epoch bigint, p_count integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    source pgsagaz.outbox_cursor;
    target bigint;
    taken  integer := 0;
    n      integer;
BEGIN
    PERFORM pg_advisory_xact_lock(1347637071, 1); -- two takers would both find the same
    FOR source IN SELECT * FROM pgsagaz.outbox_cursor WHERE epoch IS NULL ORDER BY id FOR UPDATE LOOP
        EXIT WHEN taken >= p_count;
        INSERT INTO pgsagaz.outbox_cursor (epoch, prev, cur, last_id) VALUES (p_epoch, source.prev, source.cur, source.last_id)
            RETURNING id INTO target;
        UPDATE pgsagaz.outbox_bucket SET cursor_id = target
            WHERE bucket IN (SELECT bucket FROM pgsagaz.outbox_bucket WHERE cursor_id = source.id ORDER BY bucket LIMIT p_count - taken);
        GET DIAGNOSTICS n = ROW_COUNT;
        taken := taken + n;
        DELETE FROM pgsagaz.outbox_cursor c WHERE c.id = source.id AND NOT EXISTS (SELECT FROM pgsagaz.outbox_bucket WHERE cursor_id = c.id);
    END LOOP;
    RETURN taken;
END
$$;

-- Gives buckets away, as far as they have been published: their new cursor is anybody's.
CREATE FUNCTION pgsagaz.outbox_release(p_epoch bigint, p_cursor bigint, p_buckets smallint[], p_prev text, p_cur text, p_last_id bigint)
    RETURNS boolean -- false: they were not this relay's to give
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    target bigint;
BEGIN
    PERFORM FROM pgsagaz.outbox_cursor WHERE id = p_cursor AND epoch = p_epoch FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO pgsagaz.outbox_cursor (prev, cur, last_id) VALUES (p_prev::pg_snapshot, p_cur::pg_snapshot, p_last_id) RETURNING id INTO target;
    UPDATE pgsagaz.outbox_bucket SET cursor_id = target WHERE cursor_id = p_cursor AND bucket = ANY (p_buckets);
    DELETE FROM pgsagaz.outbox_cursor c WHERE c.id IN (p_cursor, target) AND NOT EXISTS (SELECT FROM pgsagaz.outbox_bucket WHERE cursor_id = c.id);
    RETURN true;
END
$$;

-- Puts the buckets of one cursor under another of the same relay that has come as far.
CREATE FUNCTION pgsagaz.outbox_merge(p_epoch bigint, p_from bigint, p_into bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM FROM pgsagaz.outbox_cursor WHERE id IN (p_from, p_into) AND epoch = p_epoch ORDER BY id FOR UPDATE;
    IF (SELECT count(*) FROM pgsagaz.outbox_cursor WHERE id IN (p_from, p_into) AND epoch = p_epoch) < 2 THEN
        RETURN false;
    END IF;
    UPDATE pgsagaz.outbox_bucket SET cursor_id = p_into WHERE cursor_id = p_from;
    DELETE FROM pgsagaz.outbox_cursor WHERE id = p_from;
    RETURN true;
END
$$;

-- Signs a relay off. What it had is free at once.
CREATE FUNCTION pgsagaz.outbox_leave(p_epoch bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    UPDATE pgsagaz.outbox_cursor SET epoch = NULL WHERE epoch = p_epoch;
    DELETE FROM pgsagaz.outbox_relay WHERE epoch = p_epoch;
END
$$;

-- In another cluster, after a dump was restored or a logical replica took over, the transaction ids in rows and
-- cursors mean nothing, and new ones may be lower. All that is retained is published again then: some of it
-- twice, none of it never. Returns whether it came to that.
CREATE FUNCTION pgsagaz.outbox_rebase() RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    here bigint := (SELECT c.system_identifier FROM pg_control_system() c);
BEGIN
    IF (SELECT system_identifier FROM pgsagaz.outbox_state) = here THEN
        RETURN false;
    END IF;
    LOCK TABLE pgsagaz.outbox IN EXCLUSIVE MODE; -- writers wait; a second relay waits, and looks again
    IF (SELECT system_identifier FROM pgsagaz.outbox_state) = here THEN
        RETURN false;
    END IF;
    UPDATE pgsagaz.outbox SET txid = pg_current_xact_id();
    UPDATE pgsagaz.outbox_stuck SET txid = pg_current_xact_id();
    UPDATE pgsagaz.outbox_cursor SET epoch = NULL, prev = '3:3:', cur = NULL, last_id = 0;
    DELETE FROM pgsagaz.outbox_relay;
    UPDATE pgsagaz.outbox_state SET system_identifier = here;
    RETURN true;
END
$$;

-- Makes the archive's partition for a day, by UTC.
CREATE FUNCTION pgsagaz.outbox_archive_day(p_day date) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS pgsagaz.outbox_archive_%s PARTITION OF pgsagaz.outbox_archive FOR VALUES FROM (%L) TO (%L)',
                   to_char(p_day, 'YYYYMMDD'), p_day || ' 00:00:00+00', (p_day + 1) || ' 00:00:00+00');
END
$$;

-- Drops the archive's days that ended before p_before. Returns how many.
CREATE FUNCTION pgsagaz.outbox_archive_drop(p_before timestamptz) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    day     text;
    dropped integer := 0;
BEGIN
    FOR day IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'pgsagaz.outbox_archive'::regclass
                 AND to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= (p_before AT TIME ZONE 'UTC')::date LOOP
        EXECUTE format('DROP TABLE pgsagaz.%I', day);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

-- Empties a slot, if all that is in it lies behind the persisted cursors. Returns whether it did.
--
-- A slot may hold a million rows, so that the proof goes by its indexes: what every cursor's later snapshot saw, up to
-- the lowest id that one of them has come to, is consumed. The rest is looked at row by row, and most often there is none of it. Where
-- relays are far behind it is long; then the newest row tells at once.
--
-- Nothing may slip in between the look and the TRUNCATE, and the look may take long. So it comes
-- first, without a lock. Then the lock is taken, not waited for: it proves that no transaction has a row in
-- here that is not committed. Then one more statement, whose snapshot is later than the lock, proves that
-- nothing has come in since the look: that is a few entries of an index. A writer who still takes this slot for
-- the current one waits for the lock, and its row comes in after the TRUNCATE: relays read every slot.
CREATE FUNCTION pgsagaz.outbox_truncate(p_slot smallint, p_archive boolean) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET enable_seqscan = off -- nothing analyzes slots, and a plan that was made for an empty one would read all of it
    SET jit = off            -- which takes what is switched off for dear, and would compile for longer than it all takes
    AS $$
DECLARE
    slot    text := 'pgsagaz.outbox_' || p_slot;
    looked  pg_snapshot;
    passed  xid8;   -- the first that some cursor's later snapshot did not know of
    running xid8[]; -- that one of them saw run
    reached bigint; -- the lowest id that a cursor with two snapshots has come to
    found   boolean;
    top     bigint;
    day     date;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'pgsagaz: outbox_truncate needs a snapshot for each statement' USING ERRCODE = 'PS007';
    END IF;
    IF (SELECT count(*) FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id) < 256 THEN
        RETURN false; -- nobody knows how far the others are
    END IF;
    SELECT (array_agg(pg_snapshot_xmax(c.later) ORDER BY pg_snapshot_xmax(c.later)))[1], array_agg(DISTINCT x) FILTER (WHERE x IS NOT NULL), min(c.last_id)
        INTO passed, running, reached
        FROM (SELECT coalesce(c.cur, c.prev) AS later, CASE WHEN c.cur IS NOT NULL THEN c.last_id END AS last_id FROM pgsagaz.outbox_cursor c
              WHERE EXISTS (SELECT FROM pgsagaz.outbox_bucket b WHERE b.cursor_id = c.id)) c LEFT JOIN LATERAL pg_snapshot_xip(c.later) x ON true;
    looked := pg_current_snapshot(); -- what the next statement sees, and it may see more
    EXECUTE format('SELECT EXISTS (SELECT FROM (SELECT * FROM %1$s ORDER BY id DESC LIMIT 1) o WHERE %2$s)
                        OR EXISTS (SELECT FROM (SELECT * FROM %1$s WHERE txid >= $1 UNION ALL SELECT * FROM %1$s WHERE txid = ANY ($2)
                                                UNION ALL SELECT * FROM %1$s WHERE id > $3) o WHERE %2$s)',
                   slot, '(SELECT coalesce(pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id), false) IS FALSE
                           FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id WHERE b.bucket = o.bucket)')
        INTO found USING passed, running, reached;
    IF found THEN
        RETURN false;
    END IF;
    BEGIN
        IF p_archive THEN
            FOR day IN EXECUTE format('SELECT DISTINCT (created_at AT TIME ZONE ''UTC'')::date FROM %s', slot) LOOP
                PERFORM pgsagaz.outbox_archive_day(day);
            END LOOP;
            EXECUTE format('INSERT INTO pgsagaz.outbox_archive SELECT * FROM %s WHERE NOT replayed AND pg_visible_in_snapshot(txid, $1)', slot) USING looked;
        END IF;
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', slot);
        EXECUTE format('SELECT EXISTS (SELECT FROM %s o WHERE o.txid >= pg_snapshot_xmax($1)
                                       OR o.txid = ANY (ARRAY(SELECT pg_snapshot_xip($1))))', slot) INTO found USING looked;
        IF found THEN
            RAISE lock_not_available; -- lets go of the lock and of what was archived
        END IF;
        EXECUTE format('SELECT max(id) FROM %s', slot) INTO top;
        EXECUTE format('TRUNCATE %s', slot);
        UPDATE pgsagaz.outbox_state SET truncated_id = greatest(truncated_id, top);
        RETURN true;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
END
$$;

-- Goes on to the next slot when the current one has p_rows rows or is p_age old, and empties one that has
-- been consumed. A slot that is not empty never becomes the current one. Returns what it did.
CREATE FUNCTION pgsagaz.outbox_rotate(p_rows bigint, p_age interval, p_archive boolean, OUT rotated boolean, OUT truncated boolean)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    state pgsagaz.outbox_state;
    used  boolean[];
    next  smallint;
BEGIN
    rotated := false;
    truncated := false;
    IF NOT pg_try_advisory_xact_lock(1347637071, 2) THEN
        RETURN;
    END IF;
    SELECT * INTO state FROM pgsagaz.outbox_state;
    used := ARRAY[EXISTS (SELECT FROM pgsagaz.outbox_0), EXISTS (SELECT FROM pgsagaz.outbox_1),
                  EXISTS (SELECT FROM pgsagaz.outbox_2), EXISTS (SELECT FROM pgsagaz.outbox_3)];
    next := (state.slot + 1) % 4;
    IF used[state.slot + 1] AND NOT used[next + 1]
       AND ((SELECT s.last_value FROM pgsagaz.outbox_id_seq s) - state.first_id >= p_rows OR pgsagaz.now() - state.rotated_at >= p_age) THEN
        UPDATE pgsagaz.outbox_state SET slot = next, rotated_at = pgsagaz.now(), first_id = (SELECT s.last_value + 1 FROM pgsagaz.outbox_id_seq s);
        rotated := true;
    END IF;
    FOR s IN 0..3 LOOP
        IF s <> state.slot AND used[s + 1] THEN
            truncated := pgsagaz.outbox_truncate(s::smallint, p_archive);
            EXIT WHEN truncated; -- its lock is held until the commit: one at a time
        END IF;
    END LOOP;
    DELETE FROM pgsagaz.outbox_stuck s USING pgsagaz.outbox_bucket b, pgsagaz.outbox_cursor c
        WHERE s.done AND b.bucket = s.bucket AND c.id = b.cursor_id AND pgsagaz.outbox_consumed(s.txid, s.id, c.prev, c.cur, c.last_id);
END
$$;

-- Puts what was not published within its lease into the stream, and keeps outbox_direct small: the turn of a slot ends
-- when it is p_age old or p_bytes large, and then it is truncated once it holds nothing. Returns how many it put, and whether it
-- truncated.
CREATE FUNCTION pgsagaz.outbox_direct_tend(p_limit integer, p_age interval, p_bytes bigint, OUT moved integer, OUT truncated boolean)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    state pgsagaz.outbox_state;
    sizes bigint[] := ARRAY[pg_relation_size('pgsagaz.outbox_direct_0'), pg_relation_size('pgsagaz.outbox_direct_1')]; -- without regard to visibility
    other smallint;
    found boolean;
BEGIN
    moved := 0;
    truncated := false;
    IF sizes = '{0,0}' OR NOT pg_try_advisory_xact_lock(1347637071, 3) THEN
        RETURN;
    END IF;
    -- Who is just recording that he has published has locked his rows, in an order of his own: they are not waited for.
    WITH overdue AS MATERIALIZED (
        SELECT d.tableoid AS part, d.ctid AS place FROM pgsagaz.outbox_direct d WHERE d.leased_until <= pgsagaz.now()
        ORDER BY d.leased_until LIMIT p_limit FOR UPDATE SKIP LOCKED),
    gone AS (
        DELETE FROM pgsagaz.outbox_direct d USING overdue o WHERE d.tableoid = o.part AND d.ctid = o.place RETURNING d.*)
    INSERT INTO pgsagaz.outbox (slot, bucket, event_id, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step, created_at)
        SELECT s.slot, g.bucket, g.event_id, g.topic, g.key, g.routing_key, g.type, g.payload, g.headers, g.traceparent, g.saga_id, g.step, g.created_at
        FROM gone g, pgsagaz.outbox_state s ORDER BY g.created_at;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved > 0 THEN
        PERFORM pgsagaz.durable();
    END IF;

    SELECT * INTO state FROM pgsagaz.outbox_state;
    other := 1 - state.direct_slot;
    IF sizes[other + 1] = 0 THEN
        IF sizes[state.direct_slot + 1] >= p_bytes OR sizes[state.direct_slot + 1] > 0 AND pgsagaz.now() - state.direct_rotated_at >= p_age THEN
            UPDATE pgsagaz.outbox_state SET direct_slot = other, direct_rotated_at = pgsagaz.now();
        END IF;
        RETURN;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM pgsagaz.outbox_direct_%s)', other) INTO found;
    IF found THEN
        RETURN;
    END IF;
    BEGIN -- the lock proves that no transaction has a row in here that is not committed, and the look after it that none has come in
        EXECUTE format('LOCK TABLE pgsagaz.outbox_direct_%s IN ACCESS EXCLUSIVE MODE NOWAIT', other);
        EXECUTE format('SELECT EXISTS (SELECT FROM pgsagaz.outbox_direct_%s)', other) INTO found;
        IF NOT found THEN
            EXECUTE format('TRUNCATE pgsagaz.outbox_direct_%s', other);
            truncated := true;
        END IF;
    EXCEPTION WHEN lock_not_available THEN
        NULL; -- next time
    END;
END
$$;

-- Gives a dead letter another chance. Where its key waits for it, it goes first, and the order is kept. Otherwise
-- it is published anew, under a new id: in order only if no later message of its key was committed, and ordered
-- says so. What was truncated since can't be told: then it says false.
CREATE FUNCTION pgsagaz.outbox_redrive(p_id bigint, p_actor text DEFAULT NULL, p_reason text DEFAULT '',
                                       OUT new_id bigint, OUT bucket smallint, OUT ordered boolean)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    d pgsagaz.outbox_dead;
BEGIN
    SELECT * INTO d FROM pgsagaz.outbox_dead WHERE id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: no dead letter %', p_id USING ERRCODE = 'PS021';
    END IF;
    PERFORM pgsagaz.durable();
    DELETE FROM pgsagaz.outbox_dead WHERE id = p_id;
    PERFORM pgsagaz.audit_act('outbox', p_id::text, 'redrive', p_actor, p_reason,
                              jsonb_build_object('event', d.event_id, 'topic', d.topic, 'type', d.type));
    bucket := d.bucket;
    IF d.holds THEN
        UPDATE pgsagaz.outbox_stuck s SET attempts = 0, next_at = pgsagaz.now() WHERE s.id = p_id;
        new_id := p_id;
        ordered := true;
        RETURN;
    END IF;
    IF d.key IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(d.key, 0));
    END IF;
    ordered := d.key IS NULL
        OR (SELECT truncated_id < p_id FROM pgsagaz.outbox_state)
           AND NOT EXISTS (SELECT FROM pgsagaz.outbox o WHERE o.id > p_id AND o.bucket = d.bucket AND o.key = d.key)
           AND NOT EXISTS (SELECT FROM pgsagaz.outbox_stuck o WHERE o.id > p_id AND o.bucket = d.bucket AND o.key = d.key);
    INSERT INTO pgsagaz.outbox (slot, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers, traceparent, saga_id, step, created_at)
        SELECT s.slot, d.bucket, d.replayed, d.event_id, d.topic, d.key, d.routing_key, d.type, d.payload, d.headers, d.traceparent, d.saga_id, d.step, d.created_at
        FROM pgsagaz.outbox_state s
        RETURNING id INTO new_id;
END
$$;

-- Forgets a dead letter. A key that waited for it goes on without it.
CREATE FUNCTION pgsagaz.outbox_drop(p_id bigint, p_actor text DEFAULT NULL, p_reason text DEFAULT '') RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    d pgsagaz.outbox_dead;
BEGIN
    DELETE FROM pgsagaz.outbox_dead WHERE id = p_id RETURNING * INTO d;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: no dead letter %', p_id USING ERRCODE = 'PS021';
    END IF;
    PERFORM pgsagaz.durable();
    PERFORM pgsagaz.audit_act('outbox', p_id::text, 'drop', p_actor, p_reason,
                              jsonb_build_object('event', d.event_id, 'topic', d.topic, 'type', d.type));
    UPDATE pgsagaz.outbox_stuck SET done = true WHERE id = p_id;
END
$$;

UPDATE pgsagaz.schema_info SET version = 13;
