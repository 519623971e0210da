-- What bounds how many steps, or sagas, run at once, and how often they begin, over all workers. A line is a limit and a
-- key; its row is the lock under which places in it are taken, called and cleared.
CREATE TABLE pgsagaz.limit_line (
    name        text NOT NULL,
    key         text NOT NULL,
    concurrency integer,                    -- null: no bound
    spacing     interval,                   -- between two that begin; null: none
    next_at     timestamptz NOT NULL DEFAULT '-infinity', -- when the next may begin
    PRIMARY KEY (name, key)
) WITH (fillfactor = 50);

-- First come, first served: whoever comes draws one number, and has it in all of its lines.
CREATE SEQUENCE pgsagaz.limit_seq;

-- A lane's place. It is held for as long as the lane is where it was let through, under the same take-over: the commit that
-- moves the lane on, ends it or gives it back frees the place, and so does the sweeper that takes it from a dead
-- worker. The row is only cleared after that.
--
-- A lane with several limits has a place in each of their lines. It is called in all of them or in none, so that it never holds
-- one place while it waits for another. Nobody writes a row here who does not hold its line, but for what clears places of
-- sagas that have ended.
CREATE TABLE pgsagaz.limit_place (
    name       text NOT NULL,
    key        text NOT NULL,
    saga_id    uuid NOT NULL,
    step       text NOT NULL,               -- '': the saga as a whole, which holds it until it has ended
    direction  pgsagaz.direction NOT NULL,
    lane       bigint NOT NULL,
    seq        bigint NOT NULL DEFAULT nextval('pgsagaz.limit_seq'),
    at         timestamptz,                 -- from when on it may begin; null: it stands in line
    token      bigint,                      -- of the lane that was let through; null: it has yet to come
    most       integer,                     -- the concurrency that it was called under
    lines      text[],                      -- all of its lines, each as "name key"; null: this one alone
    passed_at  timestamptz,                 -- since when others go past it here, although it is first in all of its lines
    asks_at    timestamptz,                 -- when it comes to ask again, as a rate lets nobody begin before
    PRIMARY KEY (saga_id, step, direction, name, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX limit_place_waiting_idx ON pgsagaz.limit_place (name, key, seq) WHERE at IS NULL;
CREATE INDEX limit_place_called_idx ON pgsagaz.limit_place (name, key) WHERE at IS NOT NULL;

CREATE FUNCTION pgsagaz.limit_lines(p_lines text[]) RETURNS TABLE (line text, name text, key text)
    LANGUAGE sql IMMUTABLE
    AS $$SELECT l, split_part(l, ' ', 1), substr(l, strpos(l, ' ') + 1) FROM unnest(p_lines) l$$; -- a name has no space

-- Locks of these lines those that can be had at once, and gives them. It waits for nobody, as its caller holds other lines.
CREATE FUNCTION pgsagaz.limit_try(p_lines text[]) RETURNS text[]
    LANGUAGE sql VOLATILE
    AS $$
    SELECT coalesce(array_agg(held.line), '{}')
    FROM (SELECT n.line FROM pgsagaz.limit_lines(p_lines) n JOIN pgsagaz.limit_line l ON l.name = n.name AND l.key = n.key
          FOR UPDATE OF l SKIP LOCKED) held
    $$;

-- The first in a line of those who could come.
CREATE FUNCTION pgsagaz.limit_first(p_name text, p_key text) RETURNS SETOF pgsagaz.limit_place
    LANGUAGE sql STABLE
    AS $$
    SELECT p.* FROM pgsagaz.limit_place p
    WHERE p.name = p_name AND p.key = p_key AND p.at IS NULL
      AND NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = p.saga_id AND s.paused_at IS NOT NULL)
      AND EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = p.saga_id AND l.id = p.lane AND l.step = p.step AND l.direction = p.direction)
    ORDER BY p.seq LIMIT 1
    $$;

-- Clears the places of a line that nobody holds any more, and says how many are free; null: any number. The caller holds the line.
CREATE FUNCTION pgsagaz.limit_room(p_name text, p_key text, p_own bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    most   integer;
    late   pgsagaz.limit_place;
    number bigint;
BEGIN
    SELECT l.concurrency INTO most FROM pgsagaz.limit_line l WHERE l.name = p_name AND l.key = p_key;
    IF most IS NULL THEN
        RETURN NULL;
    END IF;
    DELETE FROM pgsagaz.limit_place p
    WHERE p.name = p_name AND p.key = p_key AND p.at IS NOT NULL
      AND CASE WHEN p.step = '' AND p.token IS NOT NULL
               THEN NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = p.saga_id AND s.ended_at IS NULL)
               ELSE NOT EXISTS (SELECT FROM pgsagaz.lane l
                                WHERE l.saga_id = p.saga_id AND l.id = p.lane AND l.step = p.step AND l.direction = p.direction
                                  AND (p.token IS NULL OR l.token = p.token)) END;
    -- One that was called and has not come, as there is no worker for it, must not keep the others: it stands in line again, at the
    -- end of all of its lines. If one of these can't be had now, a later look does it.
    FOR late IN SELECT * FROM pgsagaz.limit_place p
                WHERE p.name = p_name AND p.key = p_key AND p.at < pgsagaz.now() - interval '30 seconds' AND p.token IS NULL AND p.lane <> p_own
                  AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = p.saga_id AND l.id = p.lane AND l.worker IS NOT NULL) LOOP
        IF late.lines IS NULL OR cardinality(pgsagaz.limit_try(late.lines)) = cardinality(late.lines) THEN
            number := nextval('pgsagaz.limit_seq');
            UPDATE pgsagaz.limit_place p SET at = NULL, seq = number
            WHERE (p.saga_id, p.step, p.direction) = (late.saga_id, late.step, late.direction);
        END IF;
    END LOOP;
    RETURN most - (SELECT count(*) FROM pgsagaz.limit_place p WHERE p.name = p_name AND p.key = p_key AND p.at IS NOT NULL);
END
$$;

-- Clears the places of lines that nobody holds any more, and calls as many lanes as there is room for. It gives their
-- queues, and in how many seconds each may begin; and lines that it would have needed and that another transaction holds (missing): its caller
-- comes again with these. The caller holds p_lines, which it has locked in the order of name and key, so that whoever frees a
-- place and whoever asks for one come one after the other: either sees what the other has committed. p_own is a lane that its caller is at.
--
-- Who is called. In the order of their numbers, each who has room in all of his lines. Whoever has not is passed over, and so are
-- those behind him who need the line that he lacks; all others may go past him. So no place is idle for the sake of one who could not
-- use it; but two lines that are never free at the same instant would keep him waiting for ever. So he who is first in all of his lines and
-- has been passed for ten seconds is passed no longer: the last free place of each of his lines is kept for him. All that he then
-- waits for are those who are inside, and they wait for no line. He that has the lowest number of all is first in all of his lines:
-- he is let in, after him the next, and nobody waits for ever.
--
-- Rates. He begins at the latest of the times that his lines allow, and each counts on from there. Nobody is called long before that: a slot
-- that was given away is lost if he leaves, and keeps its time when the rate is changed; and one with several lines would hold places that others could
-- use till then. The first is told when to come and ask, in five minutes at most, as his definition may have another rate by then. When he
-- does, those behind him are called, too, for as far ahead as is allowed: so a line asks now and then, and not once for each slot.
--
-- Plans are made once: with the arrays of lines at hand Postgres would plan each statement anew each time, which takes longer than to run it.
--
-- Rows of other sagas' lanes are locked only where nobody holds them: he who takes one away holds his saga, and
-- would wait for this line. A lane that is passed over so has its place all the same.
CREATE FUNCTION pgsagaz.limit_call(p_lines text[], p_own bigint)
    RETURNS TABLE (queue text, seconds double precision, missing text)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    ahead   constant interval := '250 milliseconds'; -- at most so long he with several lines holds his places before he begins
    often   constant interval := '5 minutes'; -- who waits for his time asks
    patient constant interval := '10 seconds';
    held    text[] := p_lines;
    fresh   text[] := p_lines;   -- of these, those not looked at yet
    closed  text[] := '{}';      -- of these, those in which nobody else is called now
    room    jsonb  := '{}';      -- by line, how many may be called; null: any number
    place   pgsagaz.limit_place;
    lines   text[];
    line    record;
    resting record;
    head    record;
    timed   boolean;
    begins  timestamptz;
    early   interval; -- so long before he begins he may be called
    asks    timestamptz;
BEGIN
    LOOP
        FOR line IN SELECT n.line, n.name, n.key FROM pgsagaz.limit_lines(fresh) n LOOP
            room := room || jsonb_build_object(line.line, pgsagaz.limit_room(line.name, line.key, p_own));
            IF (room ->> line.line)::bigint <= 0 THEN
                closed := closed || line.line;
            END IF;
        END LOOP;
        fresh := '{}';

        SELECT p.* INTO place
        FROM pgsagaz.limit_lines(held) n, LATERAL (
            SELECT * FROM pgsagaz.limit_place o
            WHERE o.name = n.name AND o.key = n.key AND o.at IS NULL AND NOT coalesce(o.lines && closed, false)
              AND NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = o.saga_id AND s.paused_at IS NOT NULL) -- it could not come
            ORDER BY o.seq LIMIT 1) p
        WHERE n.line <> ALL (closed)
        ORDER BY p.seq LIMIT 1;
        EXIT WHEN NOT FOUND;
        lines := coalesce(place.lines, ARRAY[place.name || ' ' || place.key]);
        SELECT l.worker IS NULL AND l.id <> p_own AS waits, l.run_at, l.queue, s.name, s.version INTO resting
        FROM pgsagaz.lane l JOIN pgsagaz.saga s ON s.id = l.saga_id
        WHERE l.saga_id = place.saga_id AND l.id = place.lane AND l.step = place.step AND l.direction = place.direction;
        IF NOT FOUND THEN -- its saga has turned back meanwhile
            DELETE FROM pgsagaz.limit_place p
            WHERE (p.saga_id, p.step, p.direction) = (place.saga_id, place.step, place.direction) AND p.name || ' ' || p.key = ANY (held);
            CONTINUE;
        END IF;

        -- Is there room in all of his lines?
        IF NOT lines <@ held THEN
            fresh := pgsagaz.limit_try(ARRAY(SELECT n FROM unnest(lines) n WHERE n <> ALL (held)));
            held := held || fresh;
            IF NOT lines <@ held THEN -- nobody goes past him before he was looked at
                queue := NULL;
                seconds := NULL;
                FOREACH missing IN ARRAY ARRAY(SELECT n FROM unnest(lines) n WHERE n <> ALL (held)) LOOP
                    RETURN NEXT;
                END LOOP;
                missing := NULL;
                closed := closed || lines;
            END IF;
            CONTINUE; -- with what is known now
        END IF;

        -- Is it time?
        SELECT greatest(pgsagaz.now(), max(l.next_at) FILTER (WHERE l.spacing IS NOT NULL)), bool_or(l.spacing IS NOT NULL),
               CASE WHEN cardinality(lines) = 1 AND closed = '{}' THEN greatest(2 * ahead, least(1000 * max(l.spacing), interval '10 seconds')) ELSE ahead END
            INTO begins, timed, early
        FROM pgsagaz.limit_lines(lines) n JOIN pgsagaz.limit_line l ON l.name = n.name AND l.key = n.key;
        IF begins > pgsagaz.now() + early THEN
            asks := least(begins - CASE early WHEN ahead THEN ahead ELSE early / 2 END, pgsagaz.now() + often);
            IF resting.waits AND resting.run_at <= asks THEN -- he comes by himself
                asks := resting.run_at;
            ELSIF resting.waits THEN
                PERFORM FROM pgsagaz.lane l WHERE l.saga_id = place.saga_id AND l.id = place.lane AND l.worker IS NULL FOR UPDATE SKIP LOCKED;
                IF FOUND THEN
                    UPDATE pgsagaz.lane l SET run_at = asks, job_id = NULL WHERE l.saga_id = place.saga_id AND l.id = place.lane;
                    queue := resting.queue;
                    seconds := extract(epoch FROM asks - pgsagaz.now());
                    RETURN NEXT;
                END IF;
            END IF;
            IF place.asks_at IS DISTINCT FROM asks THEN
                UPDATE pgsagaz.limit_place p SET asks_at = asks
                WHERE (p.saga_id, p.step, p.direction) = (place.saga_id, place.step, place.direction);
            END IF;
            closed := closed || ARRAY(SELECT n.line FROM pgsagaz.limit_lines(lines) n JOIN pgsagaz.limit_line l ON l.name = n.name AND l.key = n.key
                                      WHERE l.spacing IS NOT NULL AND l.next_at >= begins); -- in his other lines somebody else may be sooner
            CONTINUE;
        END IF;

        -- Whom does he go past?
        IF cardinality(lines) > 1 OR closed <> '{}' THEN
            FOR head IN
                SELECT n.line, f.name, f.key, f.saga_id, f.step, f.direction, f.passed_at, l.spacing
                FROM pgsagaz.limit_lines(lines) n JOIN pgsagaz.limit_line l ON l.name = n.name AND l.key = n.key,
                     LATERAL pgsagaz.limit_first(n.name, n.key) f
                WHERE f.seq < place.seq AND f.lines IS NOT NULL
                  AND NOT EXISTS (SELECT FROM pgsagaz.limit_lines(f.lines) o, LATERAL pgsagaz.limit_first(o.name, o.key) g WHERE g.seq < f.seq)
                  AND NOT EXISTS (SELECT FROM pgsagaz.limit_lines(f.lines) o JOIN pgsagaz.limit_line t ON t.name = o.name AND t.key = o.key
                                  WHERE t.spacing IS NOT NULL AND t.next_at > pgsagaz.now() + ahead) LOOP -- he could not begin now anyway
                IF head.passed_at IS NULL THEN
                    UPDATE pgsagaz.limit_place p SET passed_at = pgsagaz.now()
                    WHERE (p.saga_id, p.step, p.direction, p.name, p.key) = (head.saga_id, head.step, head.direction, head.name, head.key);
                ELSIF head.passed_at <= pgsagaz.now() - patient AND (head.spacing IS NOT NULL OR (room ->> head.line)::bigint <= 1) THEN
                    closed := closed || head.line;
                END IF;
            END LOOP;
            CONTINUE WHEN lines && closed;
        END IF;

        UPDATE pgsagaz.limit_place p SET at = begins, most = l.concurrency, passed_at = NULL, asks_at = NULL
        FROM pgsagaz.limit_line l
        WHERE (p.saga_id, p.step, p.direction) = (place.saga_id, place.step, place.direction) AND l.name = p.name AND l.key = p.key;
        IF timed THEN
            UPDATE pgsagaz.limit_line l SET next_at = begins + l.spacing
            FROM pgsagaz.limit_lines(lines) n WHERE l.name = n.name AND l.key = n.key AND l.spacing IS NOT NULL;
        END IF;
        FOR line IN SELECT n AS line, (room ->> n)::bigint - 1 AS rest FROM unnest(lines) n LOOP
            room := room || jsonb_build_object(line.line, line.rest);
            IF line.rest <= 0 THEN
                closed := closed || line.line;
            END IF;
        END LOOP;
        IF resting.waits THEN
            PERFORM FROM pgsagaz.lane l WHERE l.saga_id = place.saga_id AND l.id = place.lane AND l.worker IS NULL FOR UPDATE SKIP LOCKED;
            IF FOUND THEN
                UPDATE pgsagaz.lane l SET run_at = begins,
                       job_id = CASE WHEN begins <= pgsagaz.now()
                                     THEN pgsagaz.hint(place.saga_id, resting.name, resting.version, l.id, l.step, l.queue, l.priority) END
                WHERE l.saga_id = place.saga_id AND l.id = place.lane;
                queue := resting.queue;
                seconds := extract(epoch FROM begins - pgsagaz.now());
                RETURN NEXT;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- A lane has come to a step with limits, or, with p_step '', to the beginning of a saga with some. wait: 0, it may begin;
-- above, it comes again in so many seconds; null, when it is called. If it may not begin now, the lane is given up here, in the
-- same transaction. missing: see limit_call. In this order: saga, lane, lines by name and key. Raises what fence does.
CREATE FUNCTION pgsagaz.limit_enter(
    p_saga uuid, p_from text[], p_lane bigint, p_token bigint, p_step text, p_direction text,
    p_names text[], p_keys text[], p_concurrency integer[], p_spacing interval[],
    OUT wait double precision, OUT queues text[], OUT missing text[])
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    own    pgsagaz.limit_place;
    line   record;
    asked  text[] := '{}'; -- by name and key
    counts text[] := '{}'; -- of these, those that bound how many run at once
    former text[] := '{}'; -- lines that it stood in, and that it does not ask for any more
    stands text[];
    number bigint;
BEGIN
    IF p_step <> '' THEN
        PERFORM pgsagaz.fence(p_saga, p_from, p_lane, p_token);
        IF EXISTS (SELECT FROM pgsagaz.saga WHERE id = p_saga AND paused_at IS NOT NULL) THEN -- it asks again when it is resumed
            UPDATE pgsagaz.lane SET worker = NULL, token = NULL, job_id = NULL, run_at = pgsagaz.now()
                WHERE saga_id = p_saga AND id = p_lane;
            RETURN;
        END IF;
    ELSE -- nobody has taken the lane yet
        PERFORM FROM pgsagaz.saga WHERE id = p_saga AND state = 'running' FOR NO KEY UPDATE;
        IF FOUND THEN
            PERFORM FROM pgsagaz.lane WHERE saga_id = p_saga AND id = p_lane AND step = '' AND worker IS NULL FOR UPDATE;
        END IF;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'pgsagaz: saga % has begun, or has turned back', p_saga USING ERRCODE = 'PS003';
        END IF;
    END IF;
    -- What it stood in when its definition had other limits is locked with the rest: a place is written by him alone who holds its line.
    FOR line IN SELECT n.name, n.key, n.concurrency, n.spacing, true AS wanted
                FROM unnest(p_names, p_keys, p_concurrency, p_spacing) n(name, key, concurrency, spacing)
                UNION ALL
                SELECT p.name, p.key, NULL, NULL, false FROM pgsagaz.limit_place p
                WHERE p.saga_id = p_saga AND p.step = p_step AND p.direction = p_direction::pgsagaz.direction
                  AND (p.name, p.key) NOT IN (SELECT * FROM unnest(p_names, p_keys))
                ORDER BY name, key LOOP
        IF NOT line.wanted THEN
            PERFORM FROM pgsagaz.limit_line l WHERE l.name = line.name AND l.key = line.key FOR UPDATE;
            former := former || (line.name || ' ' || line.key);
            CONTINUE;
        END IF;
        INSERT INTO pgsagaz.limit_line AS l (name, key, concurrency, spacing) VALUES (line.name, line.key, line.concurrency, line.spacing)
            ON CONFLICT (name, key) DO UPDATE SET concurrency = excluded.concurrency, spacing = excluded.spacing,
                next_at = l.next_at - coalesce(l.spacing, '0') + coalesce(excluded.spacing, '0'); -- it counts from the last one that began
        asked := asked || (line.name || ' ' || line.key);
        IF line.concurrency IS NOT NULL THEN
            counts := counts || (line.name || ' ' || line.key);
        END IF;
    END LOOP;

    SELECT * INTO own FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction LIMIT 1;
    IF FOUND THEN
        SELECT array_agg(name || ' ' || key ORDER BY name, key) INTO stands
        FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
        IF own.lane <> p_lane OR p_step <> '' AND own.token <> p_token THEN -- of another attempt
            stands := NULL;
        ELSIF own.token IS NULL THEN -- should the lines be others, it keeps its number
            number := own.seq;
        END IF;
        IF stands IS DISTINCT FROM (CASE WHEN own.token IS NULL THEN asked ELSE counts END) THEN
            DELETE FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
            own := NULL;
        END IF;
    END IF;
    IF own.saga_id IS NULL THEN
        number := coalesce(number, nextval('pgsagaz.limit_seq'));
        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane, seq, lines)
            SELECT n.name, n.key, p_saga, p_step, p_direction::pgsagaz.direction, p_lane, number, CASE WHEN cardinality(asked) > 1 THEN asked END
            FROM pgsagaz.limit_lines(asked) n;
    END IF;
    IF own.at IS NULL THEN
        SELECT array_agg(c.queue) FILTER (WHERE c.seconds <= 0), array_agg(c.missing) FILTER (WHERE c.missing IS NOT NULL) INTO queues, missing
        FROM pgsagaz.limit_call(asked || former, p_lane) c;
        SELECT * INTO own FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction LIMIT 1;
    END IF;
    wait := CASE WHEN own.at IS NOT NULL THEN greatest(0, extract(epoch FROM own.at - pgsagaz.now())) -- greatest overlooks a null
                 WHEN own.asks_at > pgsagaz.now() THEN extract(epoch FROM own.asks_at - pgsagaz.now()) END;
    IF wait = 0 THEN
        IF cardinality(counts) < cardinality(asked) THEN -- where nothing is counted, nothing is held
            DELETE FROM pgsagaz.limit_place
            WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction AND name || ' ' || key <> ALL (counts);
        END IF;
        IF counts <> '{}' THEN
            UPDATE pgsagaz.limit_place SET token = p_token, lines = CASE WHEN cardinality(counts) > 1 THEN counts END
            WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
        END IF;
    ELSE
        -- Whoever frees a place calls it, and the sweeper does; if all else fails, it asks again.
        UPDATE pgsagaz.lane SET worker = NULL, token = NULL, job_id = NULL,
                                run_at = CASE WHEN wait IS NULL THEN pgsagaz.now() + interval '5 minutes' ELSE coalesce(own.at, own.asks_at) END
            WHERE saga_id = p_saga AND id = p_lane;
    END IF;
END
$$;

-- The places of a step, or with '' those of a saga, may be free: the next are called. After the commit that freed them. p_more are lines
-- that were missing before.
CREATE FUNCTION pgsagaz.limit_leave(p_saga uuid, p_step text, p_more text[]) RETURNS TABLE (queue text, seconds double precision, missing text)
    LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan
    AS $$
DECLARE
    place record;
    held  text[] := '{}';
BEGIN
    FOR place IN SELECT p.name, p.key FROM pgsagaz.limit_place p WHERE p.saga_id = p_saga AND p.step = p_step
                 UNION SELECT n.name, n.key FROM pgsagaz.limit_lines(p_more) n
                 ORDER BY name, key LOOP
        PERFORM FROM pgsagaz.limit_line l WHERE l.name = place.name AND l.key = place.key FOR UPDATE;
        IF FOUND THEN
            held := held || (place.name || ' ' || place.key);
        END IF;
    END LOOP;
    IF held <> '{}' THEN
        RETURN QUERY SELECT * FROM pgsagaz.limit_call(held, 0);
    END IF;
END
$$;

-- Clears places whose saga has gone without a word, and lines in which nobody stands.
CREATE FUNCTION pgsagaz.limit_clear() RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    line record;
BEGIN
    DELETE FROM pgsagaz.limit_place p
    WHERE (p.saga_id, p.step, p.direction, p.name, p.key) IN (
        SELECT o.saga_id, o.step, o.direction, o.name, o.key FROM pgsagaz.limit_place o
        WHERE NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = o.saga_id AND s.ended_at IS NULL) LIMIT 1000
        FOR UPDATE SKIP LOCKED);
    FOR line IN SELECT l.name, l.key FROM pgsagaz.limit_line l
                WHERE l.next_at < pgsagaz.now() - interval '1 minute'
                  AND NOT EXISTS (SELECT FROM pgsagaz.limit_place p WHERE p.name = l.name AND p.key = l.key)
                LIMIT 1000 FOR UPDATE SKIP LOCKED LOOP
        -- Looked at again now that it is locked: somebody may have come between that look and this lock.
        DELETE FROM pgsagaz.limit_line l
        WHERE l.name = line.name AND l.key = line.key
          AND NOT EXISTS (SELECT FROM pgsagaz.limit_place p WHERE p.name = line.name AND p.key = line.key);
    END LOOP;
END
$$;

UPDATE pgsagaz.schema_info SET version = 18;
