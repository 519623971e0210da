-- A step's commit must be on disk before anybody hears of it. Not a SET clause (it would revert before
-- COMMIT), and not where the session asks for more than the local disk (remote_apply).
CREATE FUNCTION pgsagaz.durable() RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END
$$;

-- The River job that hints at a lane (0: at the saga's commands). The one place that writes river_job,
-- in the shape that River's own insert gives it (held by a test).
CREATE FUNCTION pgsagaz.hint(p_saga uuid, p_name text, p_version integer, p_lane bigint, p_step text, p_queue text, p_priority smallint DEFAULT 1)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    job bigint;
BEGIN
    INSERT INTO pgsagaz.river_job (args, kind, max_attempts, queue, priority, metadata, tags)
    VALUES (jsonb_build_object('saga_id', p_saga, 'lane', p_lane, 'step', p_step),
            'pgsagaz/' || p_name || '/' || p_version, 32767, p_queue, p_priority,
            jsonb_build_object('saga', p_name, 'saga_id', p_saga, 'step', p_step), ARRAY[p_name])
    RETURNING id INTO job;
    RETURN job;
END
$$;

-- The definition that a start is meant for: of p_version or, if that is null, the highest that a live worker has, else the
-- highest registered. PS005: there is none.
CREATE FUNCTION pgsagaz.known_definition(p_name text, p_version integer) RETURNS pgsagaz.definition
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    known pgsagaz.definition;
BEGIN
    SELECT d.* INTO known FROM pgsagaz.definition d
        WHERE d.name = p_name AND (p_version IS NULL OR d.version = p_version)
        ORDER BY EXISTS (SELECT FROM pgsagaz.worker w
                         WHERE w.definitions @> ARRAY[d.name || '/' || d.version]
                           AND w.beat_at > pgsagaz.now() - w.lease) DESC,
                 d.version DESC
        LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: unknown saga %', p_name || coalesce(' version ' || p_version, '')
            USING ERRCODE = 'PS005',
                  HINT = 'Registered: ' || coalesce((SELECT string_agg(d.name || ' ' || d.version, ', ' ORDER BY d.name, d.version)
                                                     FROM pgsagaz.definition d), 'none yet; a worker registers its sagas when it starts') || '.';
    END IF;
    RETURN known;
END
$$;

-- What goes first of a saga's jobs, as far as its steps do not say: as it is registered; 1 if it is not.
CREATE FUNCTION pgsagaz.priority(p_name text, p_version integer) RETURNS smallint
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    RETURN coalesce((SELECT d.priority FROM pgsagaz.definition d WHERE d.name = p_name AND d.version = p_version), 1);
END
$$;

-- The data key that an input is encrypted under; null: none.
CREATE FUNCTION pgsagaz.sealed_by(p_input json) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT CASE WHEN left(p_input::text, 13) = '{"pgsagaz":1,' -- by package codec
                THEN nullif((p_input ->> 'key')::uuid, '00000000-0000-0000-0000-000000000000') END
    $$;

-- What two inputs are compared by. Of two encoded ones nobody sees whether they are the same, but for a fingerprint under the
-- subject's key. A child's has none: it is started from the one row of its.
CREATE FUNCTION pgsagaz.input_hash(p_input json) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE
    AS $$
DECLARE
    canonical text;
BEGIN
    IF left(p_input::text, 13) = '{"pgsagaz":1,' AND p_input ->> 'same' IS NOT NULL THEN
        RETURN '\x01'::bytea || decode(p_input ->> 'same', 'base64');
    END IF;
    BEGIN
        canonical := p_input::jsonb::text;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN -- "\u0000", "\ud800" and 1e200000 are JSON, and not jsonb
        canonical := p_input::text;
    END;
    RETURN sha256(convert_to(canonical, 'UTF8'));
END
$$;

-- One that was plain and one that is encoded can't be compared (the codec was switched on in between): the key decides.
CREATE FUNCTION pgsagaz.other_input(p_before bytea, p_now bytea) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS 'SELECT p_before <> p_now AND octet_length(p_before) = octet_length(p_now)';

-- Starts a saga in the caller's transaction: its row, one lane and one River job; nothing here depends
-- on the graph. With p_key, the same key and input give the same saga again (existed), the same key with
-- another input an error PS006. p_version null: the highest that a live worker has, else the highest registered.
CREATE FUNCTION pgsagaz.start(
    p_name text, p_input json, p_key text DEFAULT NULL, p_tags text[] DEFAULT '{}', p_version integer DEFAULT NULL,
    p_timeout interval DEFAULT NULL, p_id uuid DEFAULT NULL, p_traceparent text DEFAULT NULL,
    p_max_bytes integer DEFAULT 1048576, p_wake boolean DEFAULT false, p_registered boolean DEFAULT true,
    OUT id uuid, OUT version integer, OUT existed boolean)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    hash      bytea;
    lane_id   bigint;
    before    pgsagaz.start_key;
    known     pgsagaz.definition;
    falls_due timestamptz;
    ranks     smallint;
    sealed_by uuid;
BEGIN
    IF p_name IS NULL OR p_input IS NULL THEN
        RAISE EXCEPTION 'pgsagaz: start needs a saga name and an input' USING ERRCODE = 'PS007';
    END IF;
    IF octet_length(p_input::text) > p_max_bytes THEN
        RAISE EXCEPTION 'pgsagaz: input of saga % is % bytes, the limit is %', p_name, octet_length(p_input::text), p_max_bytes
            USING ERRCODE = 'PS008';
    END IF;
    PERFORM pgsagaz.durable();
    sealed_by := pgsagaz.sealed_by(p_input);
    IF sealed_by IS NOT NULL THEN
        PERFORM pgsagaz.data_key_hold(sealed_by);
    END IF;

    version := p_version;
    IF version IS NULL OR p_registered THEN
        known := pgsagaz.known_definition(p_name, p_version);
        version := known.version;
    END IF;

    id := coalesce(p_id, pgsagaz.uuid7());
    existed := false;
    IF p_key IS NOT NULL THEN
        IF octet_length(p_key) NOT BETWEEN 1 AND 512 THEN
            RAISE EXCEPTION 'pgsagaz: start key of saga % must have 1 to 512 bytes', p_name USING ERRCODE = 'PS007';
        END IF;
        hash := pgsagaz.input_hash(p_input);
        LOOP
            -- Two starts of one key at once: the second waits here for the first's commit, and then finds it.
            INSERT INTO pgsagaz.start_key (name, key, saga_id, input_hash) VALUES (p_name, p_key, id, hash)
                ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
            SELECT k.* INTO before FROM pgsagaz.start_key k WHERE k.name = p_name AND k.key = p_key;
            CONTINUE WHEN NOT FOUND; -- it was forgotten at this moment
            IF pgsagaz.other_input(before.input_hash, hash) THEN
                RAISE EXCEPTION 'pgsagaz: saga % with key % was started with another input', p_name, p_key
                    USING ERRCODE = 'PS006', DETAIL = 'It is saga ' || before.saga_id || '.';
            END IF;
            id := before.saga_id;
            existed := true;
            version := coalesce((SELECT s.version FROM pgsagaz.saga s WHERE s.id = before.saga_id),
                                (SELECT a.version FROM pgsagaz.archive a WHERE a.id = before.saga_id), 0);
            RETURN;
        END LOOP;
    END IF;

    falls_due := pgsagaz.now() + coalesce(p_timeout, known.timeout);
    INSERT INTO pgsagaz.saga (id, name, version, key, tags, input, traceparent, deadline, data_key)
        VALUES (id, p_name, version, p_key, p_tags, p_input, p_traceparent, falls_due, sealed_by);
    IF falls_due IS NOT NULL THEN
        INSERT INTO pgsagaz.deadline (saga_id, due_at) VALUES (start.id, falls_due);
    END IF;
    lane_id := nextval('pgsagaz.lane_id_seq');
    ranks := coalesce(known.priority, pgsagaz.priority(p_name, version));
    INSERT INTO pgsagaz.lane (id, saga_id, step, queue, priority, job_id)
        VALUES (lane_id, id, '', 'default', ranks, pgsagaz.hint(id, p_name, version, lane_id, '', 'default', ranks));
    IF p_wake THEN -- inside the transaction: its commit then waits for every other notifying commit
        PERFORM pg_notify('pgsagaz.river_insert', '{"queue":"default"}');
    END IF;
END
$$;

-- The saga of a name that was started with a key; null: none.
CREATE FUNCTION pgsagaz.saga_by_key(p_name text, p_key text) RETURNS uuid
    LANGUAGE sql STABLE
    AS 'SELECT saga_id FROM pgsagaz.start_key WHERE name = p_name AND key = p_key';

-- Asks for something; see the table command.
CREATE FUNCTION pgsagaz.command(p_saga uuid, p_kind text, p_reason text, p_body json DEFAULT NULL, p_audit bigint DEFAULT NULL)
    RETURNS text -- the saga's state as the asker saw it
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    s pgsagaz.saga;
BEGIN
    SELECT * INTO s FROM pgsagaz.saga WHERE id = p_saga;
    IF NOT FOUND THEN
        SELECT a.state, a.ended_at INTO s.state, s.ended_at FROM pgsagaz.archive a WHERE a.id = p_saga;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'pgsagaz: no saga %', p_saga USING ERRCODE = 'PS001';
        END IF;
    END IF;
    IF s.ended_at IS NOT NULL THEN -- nothing left to ask for
        INSERT INTO pgsagaz.audit_answer (audit_id, answer, why) SELECT p_audit, 'too late', 'it is ' || s.state WHERE p_audit IS NOT NULL;
        RETURN s.state;
    END IF;
    PERFORM pgsagaz.durable();
    INSERT INTO pgsagaz.command (saga_id, kind, reason, body, audit_id, job_id)
        VALUES (p_saga, p_kind, p_reason, p_body, p_audit, pgsagaz.hint(p_saga, s.name, s.version, 0, '', 'pgsagaz_control'));
    RETURN s.state;
END
$$;

-- Sends a signal in the caller's transaction. It waits for a step that awaits it, also if it comes early;
-- with p_key, the same one sent twice counts once. A name that no step awaits is refused: PS009. With p_actor it is an
-- operator's, and stands in the audit.
CREATE FUNCTION pgsagaz.signal(
    p_saga uuid, p_name text, p_payload json, p_key text DEFAULT NULL, p_max_bytes integer DEFAULT 1048576,
    p_actor text DEFAULT NULL, p_reason text DEFAULT NULL)
    RETURNS text -- the saga's state as the sender saw it
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    awaited text[];
    called  text;
    audit   bigint;
BEGIN
    IF octet_length(p_payload::text) > p_max_bytes THEN
        RAISE EXCEPTION 'pgsagaz: signal % of saga % is % bytes, the limit is %', p_name, p_saga, octet_length(p_payload::text), p_max_bytes
            USING ERRCODE = 'PS008';
    END IF;
    IF octet_length(p_key) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'pgsagaz: the key of signal % to saga % must have 1 to 512 bytes', p_name, p_saga USING ERRCODE = 'PS007';
    END IF;
    SELECT s.name || ' version ' || s.version,
           (SELECT array_agg(n ->> 'signal') FROM jsonb_array_elements(d.graph -> 'steps') n WHERE n ? 'signal')
        INTO called, awaited
        FROM pgsagaz.saga s JOIN pgsagaz.definition d USING (name, version) WHERE s.id = p_saga;
    -- Not registered yet: no worker has begun it, and it keeps what comes.
    IF FOUND AND NOT p_name = ANY (coalesce(awaited, '{}')) THEN
        RAISE EXCEPTION 'pgsagaz: no step of saga % awaits the signal %', called, p_name
            USING ERRCODE = 'PS009', HINT = coalesce('It awaits: ' || array_to_string(awaited, ', ') || '.', 'It awaits none.');
    END IF;
    IF p_actor <> '' OR p_reason <> '' THEN
        SELECT pgsagaz.audit_write(s.id, s.name, 'signal', NULL, p_actor, p_reason, jsonb_strip_nulls(jsonb_build_object('signal', p_name, 'key', p_key))) INTO audit
            FROM pgsagaz.saga s WHERE s.id = p_saga AND s.ended_at IS NULL;
    END IF;
    RETURN pgsagaz.command(p_saga, 'signal', p_name, json_build_object('payload', coalesce(p_payload, 'null'::json), 'key', p_key, 'sent_at', pgsagaz.now()), audit);
END
$$;

-- Locks the saga's row and proves that it is in a state that the caller may act in, and that the
-- caller still drives its lane. Raises PS001 no such saga, PS002 other state, PS003 lane lost.
CREATE FUNCTION pgsagaz.fence(p_saga uuid, p_from text[], p_lane bigint, p_token bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    current_state pgsagaz.saga_state;
BEGIN
    SELECT state INTO current_state FROM pgsagaz.saga WHERE id = p_saga FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: no saga %', p_saga USING ERRCODE = 'PS001';
    END IF;
    PERFORM FROM pgsagaz.lane WHERE saga_id = p_saga AND id = p_lane AND token = p_token FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: lane % of saga % was taken over', p_lane, p_saga USING ERRCODE = 'PS003';
    END IF;
    IF current_state::text <> ALL (p_from) THEN
        RAISE EXCEPTION 'pgsagaz: saga % is %', p_saga, current_state USING ERRCODE = 'PS002';
    END IF;
END
$$;

-- Puts lanes at steps that are ready, each with a job. Called under the saga's lock.
-- A queue of null: the step is for an operator, and its lane is parked from the beginning.
CREATE FUNCTION pgsagaz.spawn(p_saga uuid, p_steps text[], p_directions text[], p_generations integer[], p_queues text[], p_priorities smallint[])
    RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    INSERT INTO pgsagaz.lane (id, saga_id, step, direction, generation, queue, priority, job_id, run_at)
    SELECT t.lane, s.id, t.step, t.direction::pgsagaz.direction, t.generation, coalesce(t.queue, 'default'), t.priority,
           CASE WHEN t.queue IS NOT NULL THEN pgsagaz.hint(s.id, s.name, s.version, t.lane, t.step, t.queue, t.priority) END,
           CASE WHEN t.queue IS NOT NULL THEN pgsagaz.now() ELSE 'infinity' END
    FROM pgsagaz.saga s,
         LATERAL (SELECT nextval('pgsagaz.lane_id_seq') AS lane, u.*
                  FROM unnest(p_steps, p_directions, p_generations, p_queues, p_priorities) AS u(step, direction, generation, queue, priority)
                  OFFSET 0) t
    WHERE s.id = p_saga;
END
$$;

-- Begins a saga: takes the lane that its start left and puts it at p_step (null: the lane ends), with
-- lanes for the other first steps. No row: nothing to begin, or somebody else does.
CREATE FUNCTION pgsagaz.begin(
    p_saga uuid, p_lane bigint, p_worker text, p_token bigint, p_step text,
    p_steps text[], p_directions text[], p_generations integer[], p_queues text[], p_priorities smallint[],
    OUT state text, OUT input json, OUT seconds_left double precision, OUT is_child boolean)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    s pgsagaz.saga;
BEGIN
    SELECT * INTO s FROM pgsagaz.saga g WHERE g.id = p_saga FOR NO KEY UPDATE;
    IF NOT FOUND OR s.state <> 'running' OR s.paused_at IS NOT NULL THEN -- cancelled before it began: the command sees to the lane
        RETURN;
    END IF;
    IF p_step IS NULL THEN
        DELETE FROM pgsagaz.lane l WHERE l.saga_id = p_saga AND l.id = p_lane AND l.step = '' AND l.generation = 1 AND l.worker IS NULL;
    ELSE
        UPDATE pgsagaz.lane l SET worker = p_worker, token = p_token, step = p_step
            WHERE l.saga_id = p_saga AND l.id = p_lane AND l.step = '' AND l.generation = 1 AND l.worker IS NULL;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF p_steps IS NOT NULL THEN
        PERFORM pgsagaz.spawn(p_saga, p_steps, p_directions, p_generations, p_queues, p_priorities);
    END IF;
    state := s.state;
    input := s.input;
    seconds_left := extract(epoch FROM s.deadline - pgsagaz.now());
    is_child := s.parent_id IS NOT NULL;
    RETURN NEXT;
END
$$;

-- Ends a step: fence, outcome, the lane's next step (null: the lane ends), the state (null: as it was),
-- lanes for whatever else is ready. One statement, so that it travels with the COMMIT.
CREATE FUNCTION pgsagaz.settle(
    p_saga uuid, p_from text[], p_lane bigint, p_token bigint, p_worker text,
    p_step text, p_direction text, p_generation integer,
    p_outcome text, -- null: nothing to record
    p_in_doubt boolean, p_attempt integer, p_result json, p_error text, p_note text, p_took double precision, -- seconds
    p_next_step text, p_next_direction text, p_next_generation integer,
    p_state text, p_cause jsonb,
    p_steps text[], p_directions text[], p_generations integer[], p_queues text[], p_priorities smallint[])
    RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    current_state pgsagaz.saga_state;
    paused        timestamptz;
BEGIN
    SELECT state, paused_at INTO current_state, paused FROM pgsagaz.saga WHERE id = p_saga FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: no saga %', p_saga USING ERRCODE = 'PS001';
    END IF;

    -- The lane is the fence: whoever took it over has given it a token of his own. (No lane: a command
    -- or a late result is recorded, and nobody's claim ends.)
    IF p_lane IS NULL THEN
        NULL;
    ELSIF p_next_step IS NOT NULL THEN
        UPDATE pgsagaz.lane SET step = p_next_step, direction = p_next_direction::pgsagaz.direction, generation = p_next_generation,
                                attempt = 0, crashes = 0, in_doubt = false, error = NULL, waits = NULL, until = NULL
            WHERE saga_id = p_saga AND id = p_lane AND token = p_token;
    ELSE
        DELETE FROM pgsagaz.lane WHERE saga_id = p_saga AND id = p_lane AND token = p_token;
    END IF;
    IF p_lane IS NOT NULL AND NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: lane % of saga % was taken over', p_lane, p_saga USING ERRCODE = 'PS003';
    END IF;
    IF current_state::text <> ALL (p_from) THEN
        RAISE EXCEPTION 'pgsagaz: saga % is %', p_saga, current_state USING ERRCODE = 'PS002';
    END IF;
    IF paused IS NOT NULL AND (p_next_step IS NOT NULL OR array_remove(p_queues, NULL) <> '{}') THEN
        RAISE EXCEPTION 'pgsagaz: saga % is paused', p_saga USING ERRCODE = 'PS002'; -- it begins nothing
    END IF;

    IF p_outcome IS NOT NULL THEN
        INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, in_doubt, attempt, token, worker,
                                  result, error, note, started_at, ended_at)
            VALUES (p_saga, p_step, p_direction::pgsagaz.direction, p_generation, p_outcome::pgsagaz.outcome, p_in_doubt, p_attempt, p_token, p_worker,
                    p_result, p_error, p_note, pgsagaz.now() - make_interval(secs => p_took), pgsagaz.now());
    END IF;
    IF p_state IS NOT NULL THEN
        UPDATE pgsagaz.saga s SET state = p_state::pgsagaz.saga_state,
                                cause = CASE WHEN p_state NOT IN ('running', 'completed') THEN coalesce(s.cause, p_cause) END,
                                turned_at = CASE WHEN p_state NOT IN ('running', 'completed') THEN coalesce(s.turned_at, pgsagaz.now()) END,
                                ended_at = CASE WHEN p_state IN ('completed', 'compensated') THEN pgsagaz.now() END,
                                paused_at = CASE WHEN p_state NOT IN ('completed', 'compensated') THEN s.paused_at END
            WHERE id = p_saga;
        IF p_state IN ('completed', 'compensated') THEN
            -- A parent is told by a command: no transaction locks two sagas.
            INSERT INTO pgsagaz.command (saga_id, kind, reason, body, job_id)
            SELECT p.id, 'child', p_state, json_build_object('step', s.parent_step, 'item', s.parent_item, 'saga_id', s.id),
                   pgsagaz.hint(p.id, p.name, p.version, 0, '', 'pgsagaz_control')
            FROM pgsagaz.saga s JOIN pgsagaz.saga p ON p.id = s.parent_id WHERE s.id = p_saga;
        END IF;
    END IF;
    IF p_steps IS NOT NULL THEN
        PERFORM pgsagaz.spawn(p_saga, p_steps, p_directions, p_generations, p_queues, p_priorities);
    END IF;
END
$$;

-- Ends steps of several sagas, in one commit: of lanes that go on with one step (p_next; null: the saga has completed), as
-- settle_next.sql and what goes behind it do. It gives the tokens of those for which that is done; the others have changed nothing.
--
-- No transaction waits for one saga while it holds another, or two of them could wait for each other. So a saga that
-- somebody has locked is passed over. Its lane is waited for: who holds that waits for no saga.
CREATE FUNCTION pgsagaz.settle_many(
    p_sagas uuid[], p_lanes bigint[], p_tokens bigint[], p_steps text[], p_attempts integer[], p_workers text[],
    p_results text[], p_took double precision[], p_next text[])
    RETURNS SETOF bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    d record;
BEGIN
    FOR d IN SELECT * FROM unnest(p_sagas, p_lanes, p_tokens, p_steps, p_attempts, p_workers, p_results, p_took, p_next)
                           AS u(saga, lane, token, step, attempt, worker, result, took, next) LOOP
        PERFORM FROM pgsagaz.saga s WHERE s.id = d.saga AND s.state = 'running' AND s.paused_at IS NULL FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF d.next IS NOT NULL THEN
            UPDATE pgsagaz.lane l SET step = d.next, attempt = 0, crashes = 0, in_doubt = false, error = NULL
                WHERE l.saga_id = d.saga AND l.id = d.lane AND l.token = d.token;
        ELSE
            DELETE FROM pgsagaz.lane l WHERE l.saga_id = d.saga AND l.id = d.lane AND l.token = d.token;
        END IF;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
            VALUES (d.saga, d.step, 'do', 1, 'done', d.attempt, d.token, d.worker, d.result::json, pgsagaz.now() - make_interval(secs => d.took), pgsagaz.now());
        IF d.next IS NULL THEN
            UPDATE pgsagaz.saga s SET state = 'completed', ended_at = pgsagaz.now() WHERE s.id = d.saga;
        END IF;
        RETURN NEXT d.token;
    END LOOP;
END
$$;

-- Gives the lane back after a failed attempt. It is due again after p_delay seconds by this clock;
-- below 0 it is parked until an operator acts. p_anew: then it has all its attempts.
CREATE FUNCTION pgsagaz.retry_later(
    p_saga uuid, p_from text[], p_lane bigint, p_token bigint, p_worker text,
    p_kind text, p_error text, p_in_doubt boolean, p_took double precision, p_delay double precision, p_anew boolean)
    RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    failed pgsagaz.attempt;
BEGIN
    -- Under the saga's lock: whoever turns the saga back dissolves the lanes that wait, and must not
    -- take this one for one that is still being worked.
    PERFORM pgsagaz.fence(p_saga, p_from, p_lane, p_token);
    IF EXISTS (SELECT FROM pgsagaz.saga s JOIN pgsagaz.lane l ON l.saga_id = s.id
               WHERE s.id = p_saga AND (s.cause -> 'no_undo')::boolean AND l.id = p_lane AND l.direction = 'undo') THEN
        RAISE EXCEPTION 'pgsagaz: saga % undoes nothing more', p_saga USING ERRCODE = 'PS002';
    END IF;
    WITH l AS (
        UPDATE pgsagaz.lane SET worker = NULL, token = NULL, job_id = NULL,
                                attempt = CASE WHEN p_anew THEN 0 ELSE attempt + 1 END,
                                crashes = CASE WHEN p_anew THEN 0 ELSE crashes END,
                                in_doubt = in_doubt OR p_in_doubt, error = p_error,
                                waits = CASE WHEN p_delay >= 0 THEN waits END,
                                run_at = CASE WHEN p_delay < 0 THEN 'infinity'
                                              ELSE pgsagaz.now() + make_interval(secs => p_delay) END
        WHERE saga_id = p_saga AND id = p_lane RETURNING *)
    INSERT INTO pgsagaz.attempt (saga_id, step, direction, generation, attempt, kind, worker, error, started_at, ended_at)
        SELECT l.saga_id, l.step, l.direction, l.generation, was.attempt + 1, p_kind, p_worker, p_error,
               pgsagaz.now() - make_interval(secs => p_took), pgsagaz.now()
        FROM l JOIN pgsagaz.lane was USING (saga_id, id) -- as it was before this statement
        RETURNING * INTO failed;
    IF failed.attempt > 100 THEN -- of a step that is tried without end the first 50 are kept, and the last 50
        DELETE FROM pgsagaz.attempt a
        WHERE a.saga_id = p_saga AND a.step = failed.step AND a.direction = failed.direction AND a.generation = failed.generation
          AND a.attempt = failed.attempt - 50;
    END IF;
END
$$;

-- Puts the lane to rest until what its step waits for has come, or p_at, or for p_seconds from now (both
-- null: for as long as it takes). A wait that goes on keeps its end.
CREATE FUNCTION pgsagaz.wait(
    p_saga uuid, p_lane bigint, p_token bigint, p_for text, p_at timestamptz, p_seconds double precision, p_in_doubt boolean)
    RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    UPDATE pgsagaz.lane l SET worker = NULL, token = NULL, job_id = NULL, waits = p_for::pgsagaz.waiting, in_doubt = p_in_doubt,
                              attempt = 0, crashes = 0, -- it has come this far
                              until = w.until, run_at = w.until
    FROM (SELECT coalesce(o.until, p_at, pgsagaz.now() + make_interval(secs => p_seconds), 'infinity') AS until
          FROM pgsagaz.lane o WHERE o.saga_id = p_saga AND o.id = p_lane) w
    WHERE l.saga_id = p_saga AND l.id = p_lane AND l.token = p_token;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: lane % of saga % was taken over', p_lane, p_saga USING ERRCODE = 'PS003';
    END IF;
END
$$;

-- Sets lanes of a step going that wait for what has now come; for a signal, also one that was given up and
-- left to an operator. Called under the saga's lock.
CREATE FUNCTION pgsagaz.resume(p_saga uuid, p_for text, p_step text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    UPDATE pgsagaz.lane l SET run_at = pgsagaz.now(), job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority),
                              attempt = CASE WHEN l.waits IS NULL THEN 0 ELSE l.attempt END,
                              crashes = CASE WHEN l.waits IS NULL THEN 0 ELSE l.crashes END
    FROM pgsagaz.saga s
    WHERE l.saga_id = p_saga AND s.id = p_saga AND l.step = p_step
      AND (l.waits = p_for::pgsagaz.waiting OR l.waits IS NULL AND p_for = 'signal' AND l.run_at = 'infinity')
      AND l.worker IS NULL AND l.run_at > pgsagaz.now();
END
$$;

-- Starts up to p_limit of the children of a step that have not started. Called under the parent's lock.
-- A child's start key is the parent's id, the step and the item: a second start would find the first.
-- p_forward: the step is never undone. A child with a pivot may be started by no other, wherever its code is: it
-- could not be taken back, and its parent would wait for ever.
CREATE FUNCTION pgsagaz.start_children(p_parent uuid, p_step text, p_limit integer, p_forward boolean) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    c       pgsagaz.child;
    made    record;
    started integer := 0;
BEGIN
    FOR c IN SELECT * FROM pgsagaz.child WHERE parent_id = p_parent AND step = p_step AND state IS NULL ORDER BY item LIMIT p_limit LOOP
        SELECT id, version INTO made FROM pgsagaz.start(
            p_name => c.name, p_input => c.input,
            p_key => p_parent || '/' || p_step || '/' || c.item || CASE WHEN c.tries > 0 THEN '/' || c.tries + 1 ELSE '' END,
            p_traceparent => (SELECT traceparent FROM pgsagaz.saga WHERE id = p_parent),
            p_max_bytes => 2147483647);
        UPDATE pgsagaz.saga SET parent_id = p_parent, parent_step = p_step, parent_item = c.item WHERE saga.id = made.id;
        IF NOT p_forward AND EXISTS (SELECT FROM pgsagaz.definition d, jsonb_array_elements(d.graph -> 'steps') n
                                     WHERE d.name = c.name AND d.version = made.version AND (n ->> 'pivot')::boolean) THEN
            RAISE EXCEPTION 'pgsagaz: child % version % has a pivot, past which it can''t be taken back', c.name, made.version
                USING ERRCODE = 'PS007';
        END IF;
        UPDATE pgsagaz.child SET state = 'running', tries = c.tries + 1, saga_id = made.id
            WHERE parent_id = p_parent AND step = p_step AND item = c.item;
        started := started + 1;
    END LOOP;
    RETURN started;
END
$$;

-- Asks the children of a step that have started to turn back, each once; those that never started never
-- will. It gives how many have yet to be compensated. Called under the parent's lock.
CREATE FUNCTION pgsagaz.revert_children(p_parent uuid, p_step text, p_reason text) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    WITH asked AS (
        UPDATE pgsagaz.child SET reverting = true
        WHERE parent_id = p_parent AND step = p_step AND NOT reverting AND state <> 'compensated'
        RETURNING saga_id)
    INSERT INTO pgsagaz.command (saga_id, kind, reason, job_id)
    SELECT s.id, 'revert', p_reason, pgsagaz.hint(s.id, s.name, s.version, 0, '', 'pgsagaz_control')
    FROM asked a JOIN pgsagaz.saga s ON s.id = a.saga_id;
    RETURN (SELECT count(*) FROM pgsagaz.child WHERE parent_id = p_parent AND step = p_step AND state <> 'compensated');
END
$$;

-- Takes away a lane that waits, since its saga turns back. A call that was begun there and whose outcome
-- is unknown is recorded as in doubt, so that it is resolved and undone. Called under the saga's lock.
CREATE FUNCTION pgsagaz.dissolve(p_saga uuid, p_lane bigint, p_record boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    WITH l AS (DELETE FROM pgsagaz.lane WHERE saga_id = p_saga AND id = p_lane RETURNING *)
    INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, in_doubt, attempt, error, started_at, ended_at)
    SELECT saga_id, step, direction, generation, 'failed', true, attempt,
           coalesce(error, CASE waits WHEN 'child' THEN 'its children had not ended' ELSE 'the worker died during the call' END),
           pgsagaz.now(), pgsagaz.now()
    FROM l WHERE p_record;
END
$$;

-- Hands the lane back untouched, with a job for whoever is next: at a shutdown, or when a lane has
-- used up its budget.
CREATE FUNCTION pgsagaz.hand_back(p_saga uuid, p_lane bigint, p_token bigint, p_in_doubt boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    UPDATE pgsagaz.lane l SET worker = NULL, token = NULL, run_at = pgsagaz.now(), in_doubt = l.in_doubt OR p_in_doubt,
                              job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority)
    FROM pgsagaz.saga s
    WHERE l.saga_id = p_saga AND l.id = p_lane AND l.token = p_token AND s.id = p_saga;
END
$$;

UPDATE pgsagaz.schema_info SET version = 12;
