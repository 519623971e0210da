-- What other languages and people call and read, beside pgsagaz.start, signal, publish and inbox_claim. These signatures
-- stay; parameters are only added, at the end and with a default.
--
-- They run as the schema's owner, so that a role needs no right to any table: see queries/roles.sql, which says who may
-- call what.

-- How a saga stands; no row: there is none. Payloads are not in the views, and here the output alone.
CREATE FUNCTION pgsagaz.status(p_saga uuid)
    RETURNS TABLE (state text, ended boolean, paused boolean, output json, cause text, started_at timestamptz, ended_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$
    SELECT s.state::text, s.ended_at IS NOT NULL, s.paused_at IS NOT NULL,
           (SELECT r.result FROM pgsagaz.step r
            WHERE s.state = 'completed' AND r.saga_id = s.id AND r.direction = 'do' AND r.outcome = 'done' AND r.step = d.graph ->> 'output'
            ORDER BY r.generation DESC LIMIT 1),
           coalesce(s.cause ->> 'error', s.cause ->> 'reason', s.cause ->> 'kind'), s.created_at, s.ended_at
    FROM pgsagaz.saga s LEFT JOIN pgsagaz.definition d USING (name, version) WHERE s.id = p_saga
    UNION ALL
    SELECT a.state::text, true, false, a.output, coalesce(a.cause ->> 'error', a.cause ->> 'reason', a.cause ->> 'kind'), a.created_at, a.ended_at
    FROM pgsagaz.archive a WHERE a.id = p_saga
    $$;

-- What an operator may ask for. Each gives the saga's state as the asker saw it; if that is completed or compensated,
-- there was nothing left to ask for. What became of it stands in the view audit_log. p_actor null: the session's user.
CREATE FUNCTION pgsagaz.cancel(p_saga uuid, p_reason text DEFAULT '', p_actor text DEFAULT NULL, p_undo boolean DEFAULT true) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$ SELECT pgsagaz.ask(p_saga, CASE WHEN p_undo THEN 'cancel' ELSE 'abandon' END, p_actor, p_reason) $$;

CREATE FUNCTION pgsagaz.pause(p_saga uuid, p_reason text DEFAULT '', p_actor text DEFAULT NULL) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$ SELECT pgsagaz.ask(p_saga, 'pause', p_actor, p_reason) $$;

-- Not "resume": that sets one lane going.
CREATE FUNCTION pgsagaz.unpause(p_saga uuid, p_reason text DEFAULT '', p_actor text DEFAULT NULL) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$ SELECT pgsagaz.ask(p_saga, 'resume', p_actor, p_reason) $$;

CREATE FUNCTION pgsagaz.retry(p_saga uuid, p_reason text DEFAULT '', p_actor text DEFAULT NULL, p_step text DEFAULT NULL) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$ SELECT pgsagaz.ask(p_saga, 'retry', p_actor, p_reason, p_step, NULL, CASE WHEN p_step <> '' THEN json_build_object('step', p_step) END) $$;

-- What is said of a step, with the direction and the generation that its lane has now: it is meant for what the asker sees, and
-- not for an undo that begins meanwhile. No lane: for nothing.
CREATE FUNCTION pgsagaz.about(p_saga uuid, p_step text, p_outcome text DEFAULT NULL, p_result json DEFAULT NULL) RETURNS json
    LANGUAGE sql STABLE SET search_path = pgsagaz, pg_temp
    AS $$
    SELECT ('{' || string_agg(to_json(k) || ':' || v, ',') || '}')::json
    FROM (SELECT) one LEFT JOIN LATERAL (
             SELECT * FROM pgsagaz.lane WHERE saga_id = p_saga AND step = p_step ORDER BY id LIMIT 1) l ON true,
         LATERAL (VALUES ('step', to_json(p_step)::text),
                         ('direction', to_json(coalesce(l.direction::text, 'do'))::text), ('generation', coalesce(l.generation, 0)::text),
                         ('outcome', to_json(p_outcome)::text), ('result', p_result::text)) AS said(k, v)
    WHERE v IS NOT NULL
    $$;

CREATE FUNCTION pgsagaz.skip(p_saga uuid, p_step text, p_reason text DEFAULT '', p_actor text DEFAULT NULL) RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$ SELECT pgsagaz.ask(p_saga, 'skip', p_actor, p_reason, p_step, NULL, pgsagaz.about(p_saga, p_step)) $$;

-- p_outcome: done, failed or skipped; p_result: of a forward step that is done.
CREATE FUNCTION pgsagaz.resolve(p_saga uuid, p_step text, p_outcome text, p_result json DEFAULT NULL, p_reason text DEFAULT '', p_actor text DEFAULT NULL)
    RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$
    SELECT pgsagaz.ask(p_saga, 'resolve', p_actor, p_reason, p_step, jsonb_build_object('outcome', p_outcome),
                       pgsagaz.about(p_saga, p_step, p_outcome, p_result))
    $$;

-- Sagas and their steps, live and archived, without payloads.
CREATE VIEW pgsagaz.sagas AS
SELECT id, name, version, state::text AS state, key, tags, cause, parent_id, created_at, deadline, paused_at, ended_at, false AS archived
FROM pgsagaz.saga
UNION ALL
SELECT id, name, version, state::text, key, tags, cause, parent_id, created_at, deadline, NULL, ended_at, true
FROM pgsagaz.archive;

-- One row for each direction of a step that has ended or is under way; a view of some saga's: WHERE saga_id = ...
CREATE VIEW pgsagaz.steps AS
SELECT saga_id, step, direction::text AS direction, generation, outcome::text AS state, in_doubt, attempt, worker, error, note, started_at, ended_at, NULL::timestamptz AS next_at
FROM pgsagaz.step
UNION ALL
SELECT saga_id, step, direction::text, generation,
       CASE WHEN worker IS NOT NULL THEN 'running'
            WHEN waits = 'signal' THEN 'awaiting' WHEN waits = 'sleep' THEN 'sleeping' WHEN waits = 'child' THEN 'child'
            WHEN run_at = 'infinity' THEN 'stuck' ELSE 'waiting' END,
       in_doubt, attempt, worker, error, NULL, NULL, NULL, CASE WHEN worker IS NULL AND run_at <> 'infinity' THEN run_at END
FROM pgsagaz.lane WHERE step <> ''
UNION ALL
SELECT a.id, r.step, r.direction, r.generation, r.state, r.in_doubt, r.attempt, nullif(r.worker, ''), nullif(r.error, ''), nullif(r.note, ''), r.started_at, r.ended_at, NULL
FROM pgsagaz.archive a, json_to_recordset(a.steps) AS r(step text, direction text, generation integer, state text, in_doubt boolean, attempt integer,
     worker text, error text, note text, started_at timestamptz, ended_at timestamptz);

-- What people asked for and did, and what became of it.
CREATE VIEW pgsagaz.audit_log AS
SELECT u.id, u.at, u.about, u.saga_id, u.saga, u.thing, u.verb, u.step, u.actor, u.login, u.reason, u.details,
       coalesce(a.answer, 'waits') AS answer, a.why, a.at AS answered_at
FROM pgsagaz.audit u LEFT JOIN pgsagaz.audit_answer a ON a.audit_id = u.id;

-- What roles call that may not write tables; and what a worker does that only the owner may: partitions, TRUNCATE.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p
             WHERE p.pronamespace = 'pgsagaz'::regnamespace AND NOT p.prosecdef AND p.proname IN (
                 'start', 'signal', 'saga_by_key', 'ask', 'restart', 'publish', 'inbox_claim',
                 'outbox_redrive', 'outbox_drop', 'inbox_redrive', 'inbox_drop',
                 'archive_partition', 'archive_batch', 'archive_retain', 'outbox_archive_day', 'outbox_archive_drop', 'outbox_truncate', 'outbox_rotate', 'outbox_direct_tend',
                 'inbox_make_partitions', 'inbox_drop_partition') LOOP
        EXECUTE 'ALTER FUNCTION ' || f || ' SECURITY DEFINER SET search_path = pgsagaz, pg_temp';
    END LOOP;
END
$$;

UPDATE pgsagaz.schema_info SET version = 19;
