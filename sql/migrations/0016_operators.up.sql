-- What people have asked of sagas, and done to schedules, dead letters, published messages and keys: who, when, what and why.
-- It is written in their transaction, is never changed, and outlives what it is about.
CREATE TABLE pgsagaz.audit (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT pgsagaz.now(),
    about    text NOT NULL DEFAULT 'saga' CHECK (about IN ('saga', 'schedule', 'outbox', 'inbox', 'codec', 'system')),
    saga_id  uuid,
    saga     text,                                -- its name
    thing    text,                                -- else: a schedule's name; a dead letter's id; the id of a subject's key, and never his name
    verb     text NOT NULL,
    step     text,                                -- that it is about; null: the whole saga
    actor    text NOT NULL CHECK (actor <> ''),   -- who, as he calls himself
    login    text NOT NULL DEFAULT session_user,  -- and as whom he came to the database
    reason   text NOT NULL DEFAULT '',
    details  jsonb,                               -- what else was said; no payloads, and no keys of messages
    CONSTRAINT audit_is_about_one_saga_or_one_other_thing CHECK (
        CASE about WHEN 'saga' THEN saga_id IS NOT NULL AND saga IS NOT NULL AND thing IS NULL
                   ELSE saga_id IS NULL AND saga IS NULL AND step IS NULL END)
);
CREATE INDEX audit_saga_idx ON pgsagaz.audit (saga_id);
CREATE INDEX audit_thing_idx ON pgsagaz.audit (about, thing) WHERE saga_id IS NULL;

-- What became of it, once it is known.
CREATE TABLE pgsagaz.audit_answer (
    audit_id bigint PRIMARY KEY REFERENCES pgsagaz.audit,
    at       timestamptz NOT NULL DEFAULT pgsagaz.now(),
    answer   text NOT NULL CHECK (answer IN ('obeyed', 'already', 'too late', 'refused')),
    why      text NOT NULL DEFAULT ''
);

CREATE FUNCTION pgsagaz.append_only() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'pgsagaz: % of % is refused: what is written there stays', lower(TG_OP), TG_TABLE_NAME USING ERRCODE = 'PS011';
END
$$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON pgsagaz.audit
    FOR EACH STATEMENT EXECUTE FUNCTION pgsagaz.append_only();
CREATE TRIGGER audit_answer_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON pgsagaz.audit_answer
    FOR EACH STATEMENT EXECUTE FUNCTION pgsagaz.append_only();

-- Writes into the audit who asks for something. No actor: whoever is logged in.
CREATE FUNCTION pgsagaz.audit_write(p_saga uuid, p_name text, p_verb text, p_step text, p_actor text, p_reason text, p_details jsonb)
    RETURNS bigint
    LANGUAGE sql VOLATILE
    AS $$
    INSERT INTO pgsagaz.audit (saga_id, saga, verb, step, actor, reason, details)
    VALUES (p_saga, p_name, p_verb, nullif(p_step, ''), coalesce(nullif(p_actor, ''), session_user), coalesce(p_reason, ''), p_details)
    RETURNING id
    $$;

-- Writes into the audit what somebody does to something that is no saga, in his transaction, and what came of it at once:
-- obeyed, or already. p_answer null: it takes more than this transaction, and is answered when all is done.
CREATE FUNCTION pgsagaz.audit_act(
    p_about text, p_thing text, p_verb text, p_actor text, p_reason text, p_details jsonb, p_answer text DEFAULT 'obeyed')
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    audit bigint;
BEGIN
    INSERT INTO pgsagaz.audit (about, thing, verb, actor, reason, details)
        VALUES (p_about, p_thing, p_verb, coalesce(nullif(p_actor, ''), session_user), coalesce(p_reason, ''), p_details)
        RETURNING id INTO audit;
    INSERT INTO pgsagaz.audit_answer (audit_id, answer) SELECT audit, p_answer WHERE p_answer IS NOT NULL;
    RETURN audit;
END
$$;

-- Asks for something in somebody's name: pgsagaz.command, and the audit of it. What is asked of a saga that has ended is
-- neither done nor written down: the asker is told.
CREATE FUNCTION pgsagaz.ask(
    p_saga uuid, p_verb text, p_actor text, p_reason text, p_step text DEFAULT NULL, p_details jsonb DEFAULT NULL, p_body json DEFAULT NULL)
    RETURNS text -- the saga's state as the asker saw it
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    audit bigint;
BEGIN
    IF p_verb IN ('child', 'revert', 'deadline', 'plan', 'signal') THEN -- sagas say these to each other, and a signal has a function of its own
        RAISE EXCEPTION 'pgsagaz: % is nothing to ask for', p_verb USING ERRCODE = 'PS007';
    END IF;
    SELECT pgsagaz.audit_write(s.id, s.name, p_verb, p_step, p_actor, p_reason, p_details) INTO audit
        FROM pgsagaz.saga s WHERE s.id = p_saga AND s.ended_at IS NULL;
    RETURN pgsagaz.command(p_saga, p_verb, coalesce(p_reason, ''), p_body, audit);
END
$$;

-- A saga that goes on where another one ended: what came before is taken over, and happens once.
CREATE TABLE pgsagaz.restart (
    saga_id uuid PRIMARY KEY,
    from_id uuid NOT NULL UNIQUE,  -- one successor: two would both undo what they took over
    step    text NOT NULL,
    at      timestamptz NOT NULL DEFAULT pgsagaz.now()
);

-- Starts a saga with the outcomes that another one, which has ended, has of p_steps; the caller has seen to it that they
-- still stand. Asked again for the same step it gives the same saga (existed). The successor's lane has
-- generation 0: where it begins follows from what it took over.
CREATE FUNCTION pgsagaz.restart(
    p_from uuid, p_step text, p_steps text[], p_actor text, p_reason text, p_id uuid,
    OUT id uuid, OUT version integer, OUT existed boolean)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    old    record;
    before pgsagaz.restart;
    audit  bigint;
    taken  bigint;
BEGIN
    SELECT s.name, s.version, s.input, s.tags, s.traceparent, s.state, false AS archived, s.parent_id INTO old FROM pgsagaz.saga s WHERE s.id = p_from
        FOR KEY SHARE; -- the archiver moves it before this, or after our end: what is to be taken over is read by several statements
    IF NOT FOUND THEN
        SELECT a.name, a.version, a.input, a.tags, a.traceparent, a.state, true AS archived, a.parent_id INTO old FROM pgsagaz.archive a WHERE a.id = p_from;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: no saga %', p_from USING ERRCODE = 'PS001';
    END IF;
    IF old.state < 'completed' OR old.parent_id IS NOT NULL THEN
        RAISE EXCEPTION 'pgsagaz: saga % is % and can''t be restarted', p_from,
            CASE WHEN old.parent_id IS NULL THEN old.state::text ELSE 'the child of saga ' || old.parent_id END USING ERRCODE = 'PS002';
    END IF;
    id := coalesce(p_id, pgsagaz.uuid7());
    version := old.version;
    existed := false;
    -- Two at once: the second waits here for the first's commit, and then finds it.
    INSERT INTO pgsagaz.restart (saga_id, from_id, step) VALUES (id, p_from, p_step) ON CONFLICT (from_id) DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO STRICT before FROM pgsagaz.restart r WHERE r.from_id = p_from;
        IF before.step <> p_step THEN
            RAISE EXCEPTION 'pgsagaz: saga % was restarted from step %, as saga %', p_from, before.step, before.saga_id USING ERRCODE = 'PS012';
        END IF;
        id := before.saga_id;
        existed := true;
        RETURN;
    END IF;

    PERFORM pgsagaz.start(old.name, old.input, p_tags => old.tags, p_version => old.version, p_id => restart.id,
                          p_traceparent => old.traceparent, p_max_bytes => 2147483647);
    UPDATE pgsagaz.lane l SET generation = 0 WHERE l.saga_id = restart.id;
    INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, in_doubt, attempt, worker, result, error, note, origin, started_at, ended_at)
    SELECT DISTINCT ON (r.step) restart.id, r.step, 'do', 1, r.outcome, r.in_doubt, r.attempt, r.worker, r.result, r.error, r.note,
           coalesce(r.origin, p_from), r.started_at, r.ended_at
    FROM (SELECT s.step, s.direction, s.generation, s.outcome, s.in_doubt, s.attempt, s.worker, s.result, s.error, s.note, s.origin, s.started_at, s.ended_at
          FROM pgsagaz.step s WHERE s.saga_id = p_from
          UNION ALL
          SELECT a.step, a.direction, a.generation, a.state, a.in_doubt, a.attempt, nullif(a.worker, ''),
                 -- A result of null is one; a JSON null is all that is left of none.
                 CASE WHEN a.state = 'done' THEN coalesce(a.result, 'null') END, nullif(a.error, ''), nullif(a.note, ''), a.origin, a.started_at, a.ended_at
          FROM pgsagaz.archive g, json_to_recordset(g.steps) AS a(step text, direction pgsagaz.direction, generation integer,
               state pgsagaz.outcome, in_doubt boolean, attempt integer, worker text, result json, error text, note text, origin uuid,
               started_at timestamptz, ended_at timestamptz)
          WHERE old.archived AND g.id = p_from) r
    WHERE r.direction = 'do' AND r.step = ANY (p_steps)
    ORDER BY r.step, r.generation DESC;
    GET DIAGNOSTICS taken = ROW_COUNT;
    IF taken <> cardinality(p_steps) THEN
        RAISE EXCEPTION 'pgsagaz: saga % has outcomes of % of the % steps to be taken over', p_from, taken, cardinality(p_steps) USING ERRCODE = 'PS002';
    END IF;

    -- In the audit of both; it is obeyed on the spot.
    audit := pgsagaz.audit_write(p_from, old.name, 'restart', p_step, p_actor, p_reason, jsonb_build_object('as', restart.id));
    INSERT INTO pgsagaz.audit_answer (audit_id, answer) VALUES (audit, 'obeyed');
    audit := pgsagaz.audit_write(restart.id, old.name, 'restart', p_step, p_actor, p_reason, jsonb_build_object('of', p_from));
    INSERT INTO pgsagaz.audit_answer (audit_id, answer) VALUES (audit, 'obeyed');
END
$$;

UPDATE pgsagaz.schema_info SET version = 16;
