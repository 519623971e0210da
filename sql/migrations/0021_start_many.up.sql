-- Starts a saga of one name for each input, in the caller's transaction, as pgsagaz.start does for one, and answers with a row for
-- each, in their order. p_keys: null, or a key for each, of which some may be null. A key that comes twice with one input
-- is one saga.
CREATE FUNCTION pgsagaz.start_many(
    p_name text, p_ids uuid[], p_inputs json[], p_keys text[] DEFAULT NULL, p_tags text[] DEFAULT '{}', p_version integer DEFAULT NULL,
    p_timeout interval DEFAULT NULL, p_traceparent text DEFAULT NULL, p_max_bytes integer DEFAULT 1048576, p_registered boolean DEFAULT true)
    RETURNS TABLE (id uuid, version integer, existed boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    which     integer := p_version;
    known     pgsagaz.definition;
    falls_due timestamptz;
    wrong     record;
    n         integer := cardinality(p_ids);
    ranks     smallint;
    mine      uuid[];  -- whose keys are new
    owner     uuid[];  -- whose keys they are, for each; null: it has no key
BEGIN
    IF p_name IS NULL OR n IS NULL OR n IS DISTINCT FROM cardinality(p_inputs) OR p_keys IS NOT NULL AND n IS DISTINCT FROM cardinality(p_keys)
       OR array_position(p_ids, NULL) IS NOT NULL OR EXISTS (SELECT FROM unnest(p_inputs) i WHERE i IS NULL) THEN
        RAISE EXCEPTION 'pgsagaz: start_many needs a saga name, and an id and an input for each, none of them null' USING ERRCODE = 'PS007';
    END IF;
    SELECT o AS nth, octet_length(i::text) AS bytes INTO wrong
        FROM unnest(p_inputs) WITH ORDINALITY AS u(i, o) WHERE octet_length(i::text) > p_max_bytes LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'pgsagaz: input % of saga % is % bytes, the limit is %', wrong.nth, p_name, wrong.bytes, p_max_bytes USING ERRCODE = 'PS008';
    END IF;
    PERFORM pgsagaz.durable();
    PERFORM pgsagaz.data_key_hold(k) FROM (SELECT DISTINCT pgsagaz.sealed_by(i) AS k FROM unnest(p_inputs) i) AS keys WHERE k IS NOT NULL ORDER BY k;
    IF which IS NULL OR p_registered THEN
        known := pgsagaz.known_definition(p_name, p_version);
        which := known.version;
    END IF;

    IF p_keys IS NOT NULL THEN
        IF EXISTS (SELECT FROM unnest(p_keys) k WHERE octet_length(k) NOT BETWEEN 1 AND 512) THEN
            RAISE EXCEPTION 'pgsagaz: start key of saga % must have 1 to 512 bytes', p_name USING ERRCODE = 'PS007';
        END IF;
        -- By key: two that start the same ones in another order would wait for each other.
        WITH fresh AS (
            INSERT INTO pgsagaz.start_key (name, key, saga_id, input_hash)
            SELECT p_name, k, u, pgsagaz.input_hash(i) FROM unnest(p_ids, p_inputs, p_keys) WITH ORDINALITY AS one(u, i, k, o)
            WHERE k IS NOT NULL ORDER BY k COLLATE "C", o
            ON CONFLICT DO NOTHING
            RETURNING saga_id)
        SELECT array_agg(f.saga_id) INTO mine FROM fresh f;
        -- One look decides for all that follows: a key may be forgotten at any moment.
        SELECT array_agg(b.saga_id ORDER BY o) INTO owner
            FROM unnest(p_keys) WITH ORDINALITY AS one(k, o) LEFT JOIN pgsagaz.start_key b ON b.name = p_name AND b.key = k;
        IF EXISTS (SELECT FROM unnest(p_keys, owner) AS one(k, f) WHERE k IS NOT NULL AND f IS NULL) THEN
            RAISE EXCEPTION 'pgsagaz: a start key of saga % was forgotten at this moment: try again', p_name USING ERRCODE = '40001';
        END IF;
        SELECT k AS key, b.saga_id INTO wrong
            FROM unnest(p_ids, p_inputs, p_keys) WITH ORDINALITY AS one(u, i, k, o) JOIN pgsagaz.start_key b ON b.name = p_name AND b.key = k
            WHERE NOT (b.saga_id = u AND EXISTS (SELECT FROM unnest(mine) m WHERE m = u)) AND pgsagaz.other_input(b.input_hash, pgsagaz.input_hash(i))
            ORDER BY o LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'pgsagaz: saga % with key % was started with another input', p_name, wrong.key
                USING ERRCODE = 'PS006', DETAIL = 'It is saga ' || wrong.saga_id || '.';
        END IF;
    END IF;
    owner := coalesce(owner, array_fill(NULL::uuid, ARRAY[n]));

    falls_due := pgsagaz.now() + coalesce(p_timeout, known.timeout);
    ranks := pgsagaz.priority(p_name, which);
    -- The job is what pgsagaz.hint writes for one.
    WITH fresh AS (
        SELECT u AS id, k AS key, i AS input, nextval('pgsagaz.lane_id_seq') AS lane, nextval('pgsagaz.river_job_id_seq') AS job
        FROM unnest(p_ids, p_inputs, coalesce(p_keys, array_fill(NULL::text, ARRAY[n])), owner) WITH ORDINALITY AS one(u, i, k, f, o)
        WHERE f IS NULL OR f = u AND EXISTS (SELECT FROM unnest(mine) m WHERE m = u)
        ORDER BY o),
    sagas AS (
        INSERT INTO pgsagaz.saga (id, name, version, key, tags, input, traceparent, deadline, data_key)
        SELECT f.id, p_name, which, f.key, coalesce(p_tags, '{}'), f.input, p_traceparent, falls_due, pgsagaz.sealed_by(f.input) FROM fresh f),
    deadlines AS (
        INSERT INTO pgsagaz.deadline (saga_id, due_at) SELECT f.id, falls_due FROM fresh f WHERE falls_due IS NOT NULL),
    jobs AS (
        INSERT INTO pgsagaz.river_job (id, args, kind, max_attempts, queue, priority, metadata, tags)
        SELECT f.job, jsonb_build_object('saga_id', f.id, 'lane', f.lane, 'step', ''), 'pgsagaz/' || p_name || '/' || which, 32767, 'default', ranks,
               jsonb_build_object('saga', p_name, 'saga_id', f.id, 'step', ''), ARRAY[p_name] FROM fresh f)
    INSERT INTO pgsagaz.lane (id, saga_id, step, queue, priority, job_id) SELECT f.lane, f.id, '', 'default', ranks, f.job FROM fresh f;

    IF NOT EXISTS (SELECT FROM unnest(p_ids, owner) AS one(u, f)
                   WHERE f IS NOT NULL AND NOT (f = u AND EXISTS (SELECT FROM unnest(mine) m WHERE m = u))) THEN -- and the archive is not read: this transaction may be long, and its lock on it
        RETURN QUERY SELECT u, which, false FROM unnest(p_ids) WITH ORDINALITY AS one(u, o) ORDER BY o;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT coalesce(f, u),
               CASE WHEN o.fresh THEN which
                    ELSE coalesce((SELECT s.version FROM pgsagaz.saga s WHERE s.id = f), (SELECT a.version FROM pgsagaz.archive a WHERE a.id = f), 0) END,
               NOT o.fresh
        FROM (SELECT u, f, nth, f IS NULL OR f = u AND EXISTS (SELECT FROM unnest(mine) m WHERE m = u) AS fresh
              FROM unnest(p_ids, owner) WITH ORDINALITY AS one(u, f, nth)) o
        ORDER BY nth;
END
$$;

UPDATE pgsagaz.schema_info SET version = 21;
