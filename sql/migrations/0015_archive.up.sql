-- Sagas that have ended, one row each, in a partition for each day of their ends (UTC), so that old ones are dropped
-- and not deleted. json, and not jsonb: a payload may hold \u0000.
CREATE TABLE pgsagaz.archive (
    id          uuid NOT NULL,
    name        text NOT NULL,
    version     integer NOT NULL,
    state       pgsagaz.saga_state NOT NULL,
    key         text,
    tags        text[] NOT NULL,
    input       json NOT NULL,
    output      json,
    cause       jsonb,
    traceparent text,
    parent_id   uuid,
    parent_step text,
    created_at  timestamptz NOT NULL,
    deadline    timestamptz,
    ended_at    timestamptz NOT NULL,
    steps       json NOT NULL,
    attempts    json NOT NULL,
    signals     json NOT NULL,
    children    json NOT NULL,
    data_key    uuid,
    PRIMARY KEY (id, ended_at)
) PARTITION BY RANGE (ended_at);
CREATE INDEX archive_name_idx ON pgsagaz.archive (name, id);
CREATE INDEX archive_data_key_idx ON pgsagaz.archive (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX archive_key_idx ON pgsagaz.archive (key) WHERE key IS NOT NULL;

-- The smallest UUIDv7 of a time.
CREATE FUNCTION pgsagaz.uuid7_at(p_at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT (lpad(to_hex(greatest(0, floor(extract(epoch FROM p_at) * 1000))::bigint), 12, '0') || '70008000000000000000')::uuid
    $$;

-- Makes the partition of a day, unless it is there. It is attached, as to be created as one it would wait for everybody who
-- has read the archive in a transaction that is still open, and everybody for it.
CREATE FUNCTION pgsagaz.archive_partition(p_day date) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    called text := 'archive_' || to_char(p_day, 'YYYYMMDD');
BEGIN
    IF to_regclass('pgsagaz.' || called) IS NULL THEN
        EXECUTE format('CREATE TABLE pgsagaz.%I (LIKE pgsagaz.archive INCLUDING ALL)', called);
        EXECUTE format('ALTER TABLE pgsagaz.archive ATTACH PARTITION pgsagaz.%I FOR VALUES FROM (%L) TO (%L)', called,
                       p_day::timestamp AT TIME ZONE 'UTC', (p_day + 1)::timestamp AT TIME ZONE 'UTC');
    END IF;
END
$$;

-- Moves sagas that ended before p_before into the archive, at most some p_limit of them, with their children, which
-- must have ended too: a parent may take its child back for as long as it lives itself. It gives how many it moved;
-- null: somebody else is at it.
CREATE FUNCTION pgsagaz.archive_batch(p_before timestamptz, p_limit integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    ids    uuid[];
    roots  uuid[];
    family uuid[];
    moved  integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1346851674, 2) THEN
        RETURN NULL;
    END IF;
    WITH RECURSIVE root AS (
        SELECT s.id FROM pgsagaz.saga s
        WHERE s.id < pgsagaz.uuid7_at(p_before) AND s.ended_at < p_before AND s.parent_id IS NULL
          -- What has to stay must not stand in the way of what is behind it.
          AND NOT EXISTS (SELECT FROM pgsagaz.child c WHERE c.parent_id = s.id AND (SELECT k.ended_at IS NULL FROM pgsagaz.saga k WHERE k.id = c.saga_id))
          AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.saga_id = s.id)
        ORDER BY s.id LIMIT p_limit
    ), member AS (
        SELECT id AS root, id FROM root
        UNION ALL
        SELECT m.root, c.saga_id FROM member m JOIN pgsagaz.child c ON c.parent_id = m.id WHERE c.saga_id IS NOT NULL
    )
    SELECT array_agg(m.id), array_agg(m.root) INTO ids, roots FROM member m;
    -- A statement of its own, that knows how many there are: what a recursion gives is taken for so much that the whole table
    -- would be read to join it. A command on its way, a lane left: not yet.
    SELECT array_agg(m.id) INTO family FROM (
        SELECT m.id, bool_and(s.ended_at IS NOT NULL
                              AND NOT EXISTS (SELECT FROM pgsagaz.command c WHERE c.saga_id = m.id)
                              AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = m.id)) OVER (PARTITION BY m.root) AS whole
        FROM unnest(ids, roots) AS m(id, root) JOIN pgsagaz.saga s ON s.id = m.id) m
        WHERE m.whole;
    IF family IS NULL THEN
        RETURN 0;
    END IF;
    -- A result that arrives late locks its saga and may reopen it: it has done so, or finds none.
    PERFORM FROM pgsagaz.saga WHERE id = ANY (family) ORDER BY id FOR UPDATE;
    IF EXISTS (SELECT FROM pgsagaz.saga WHERE id = ANY (family) AND ended_at IS NULL) THEN
        RETURN 0;
    END IF;
    PERFORM pgsagaz.archive_partition(day) FROM (
        SELECT DISTINCT (ended_at AT TIME ZONE 'UTC')::date AS day FROM pgsagaz.saga WHERE id = ANY (family)) d;

    INSERT INTO pgsagaz.archive (id, name, version, state, key, tags, input, output, cause, traceparent, parent_id, parent_step,
                                 created_at, deadline, ended_at, steps, attempts, signals, children, data_key)
    SELECT s.id, s.name, s.version, s.state, s.key, s.tags, s.input,
           (SELECT r.result FROM pgsagaz.step r
            WHERE s.state = 'completed' AND r.saga_id = s.id AND r.direction = 'do' AND r.outcome = 'done' AND r.step = d.graph ->> 'output'
            ORDER BY r.generation DESC LIMIT 1),
           s.cause, s.traceparent, s.parent_id, s.parent_step, s.created_at, s.deadline, s.ended_at,
           coalesce((SELECT json_agg(json_build_object(
                        'step', r.step, 'direction', r.direction, 'generation', r.generation, 'state', r.outcome, 'in_doubt', r.in_doubt,
                        'attempt', r.attempt, 'worker', coalesce(r.worker, ''), 'result', r.result, 'error', coalesce(r.error, ''),
                        'note', coalesce(r.note, ''), 'origin', r.origin, 'started_at', r.started_at, 'ended_at', r.ended_at) ORDER BY r.ended_at, r.started_at, r.step)
                     FROM pgsagaz.step r WHERE r.saga_id = s.id), '[]'),
           coalesce((SELECT json_agg(json_build_object(
                        'step', a.step, 'direction', a.direction, 'generation', a.generation, 'attempt', a.attempt, 'kind', a.kind,
                        'worker', coalesce(a.worker, ''), 'error', a.error, 'started_at', a.started_at, 'ended_at', a.ended_at) ORDER BY a.id)
                     FROM pgsagaz.attempt a WHERE a.saga_id = s.id), '[]'),
           coalesce((SELECT json_agg(json_build_object(
                        'name', g.name, 'key', coalesce(g.key, ''), 'payload', g.payload, 'sent_at', g.sent_at, 'step', coalesce(g.step, '')) ORDER BY g.id)
                     FROM pgsagaz.signal g WHERE g.saga_id = s.id), '[]'),
           coalesce((SELECT json_agg(json_build_object(
                        'step', c.step, 'item', c.item, 'id', coalesce(c.saga_id::text, ''), 'name', c.name, 'state', coalesce(c.state::text, 'waiting'))
                        ORDER BY c.step, c.item)
                     FROM pgsagaz.child c WHERE c.parent_id = s.id), '[]'),
           s.data_key
    FROM pgsagaz.saga s LEFT JOIN pgsagaz.definition d USING (name, version)
    WHERE s.id = ANY (family);
    GET DIAGNOSTICS moved = ROW_COUNT;

    DELETE FROM pgsagaz.step WHERE saga_id = ANY (family);
    DELETE FROM pgsagaz.attempt WHERE saga_id = ANY (family);
    DELETE FROM pgsagaz.signal WHERE saga_id = ANY (family);
    DELETE FROM pgsagaz.child WHERE parent_id = ANY (family);
    DELETE FROM pgsagaz.deadline WHERE saga_id = ANY (family);
    DELETE FROM pgsagaz.saga WHERE id = ANY (family);
    RETURN moved;
END
$$;

-- Drops what ended before p_archive, by whole days, and forgets start keys from before p_keys whose sagas do not live
-- any more (null: neither). It names the partitions that it dropped.
CREATE FUNCTION pgsagaz.archive_retain(p_archive timestamptz, p_keys timestamptz) RETURNS text[]
    LANGUAGE plpgsql VOLATILE SET lock_timeout = '200ms' -- whoever reads the archive meanwhile waits for the one that waits
    AS $$
DECLARE
    p       record;
    dropped text[] := '{}';
BEGIN
    IF NOT pg_try_advisory_xact_lock(1346851674, 2) THEN
        RETURN dropped;
    END IF;
    FOR p IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'pgsagaz.archive'::regclass AND c.relname ~ '^archive_\d{8}$'
               AND to_date(substr(c.relname, 9), 'YYYYMMDD') + 1 <= (p_archive AT TIME ZONE 'UTC')::date
             ORDER BY 1 LOOP
        BEGIN
            EXECUTE format('DROP TABLE pgsagaz.%I', p.relname);
            dropped := dropped || p.relname::text;
        EXCEPTION WHEN lock_not_available THEN -- somebody reads the archive in a long transaction: another time
            EXIT;
        END;
    END LOOP;
    DELETE FROM pgsagaz.start_key k
    WHERE (k.name, k.key) IN (SELECT o.name, o.key FROM pgsagaz.start_key o
                              WHERE o.created_at < p_keys AND NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = o.saga_id)
                              ORDER BY o.created_at LIMIT 5000);
    RETURN dropped;
END
$$;
CREATE INDEX start_key_created_idx ON pgsagaz.start_key (created_at);

UPDATE pgsagaz.schema_info SET version = 15;
