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

-- A lane's place. It is held for as long as the lane is where it was let through, under the same take-over: the commit that
-- moves the lane on, ends it or gives it back frees the place, and so does the sweeper that takes it from a dead
-- worker. The row is only cleared after that.
CREATE TABLE pgsagaz.limit_place (
    name       text NOT NULL,
    key        text NOT NULL,
    saga_id    uuid NOT NULL,
    step       text NOT NULL,               -- '': the saga as a whole, which holds it until it has ended
    direction  pgsagaz.direction NOT NULL,
    lane       bigint NOT NULL,
    seq        bigint GENERATED ALWAYS AS IDENTITY, -- first come, first served
    at         timestamptz,                 -- from when on it may begin; null: it stands in line
    token      bigint,                      -- of the lane that was let through; null: it has yet to come
    most       integer,                     -- the concurrency that it was called under
    PRIMARY KEY (saga_id, step, direction)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX limit_place_waiting_idx ON pgsagaz.limit_place (name, key, seq) WHERE at IS NULL;
CREATE INDEX limit_place_called_idx ON pgsagaz.limit_place (name, key) WHERE at IS NOT NULL;

-- Clears the places of a line that nobody holds any more, and calls as many lanes as there is room for. It gives their
-- queues, and in how many seconds each may begin. The caller holds the line's row, so that whoever frees a place and whoever asks
-- for one come one after the other: either sees what the other has committed. p_own is a lane that its caller is at.
--
-- Rows of other sagas' lanes are locked only where nobody holds them: he who takes one away holds his saga, and
-- would wait for this line. A lane that is passed over so has its place all the same.
CREATE FUNCTION pgsagaz.limit_call(p_name text, p_key text, p_own bigint)
    RETURNS TABLE (queue text, seconds double precision)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    line    pgsagaz.limit_line;
    place   pgsagaz.limit_place;
    resting record;
    room    bigint;
    begins  timestamptz;
    before  timestamptz;
BEGIN
    SELECT * INTO line FROM pgsagaz.limit_line l WHERE l.name = p_name AND l.key = p_key;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    before := line.next_at;
    IF line.concurrency IS NOT NULL THEN
        DELETE FROM pgsagaz.limit_place p
        WHERE p.name = p_name AND p.key = p_key AND p.at IS NOT NULL
          AND CASE WHEN p.step = '' AND p.token IS NOT NULL
                   THEN NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = p.saga_id AND s.ended_at IS NULL)
                   ELSE NOT EXISTS (SELECT FROM pgsagaz.lane l
                                    WHERE l.saga_id = p.saga_id AND l.id = p.lane AND l.step = p.step AND l.direction = p.direction
                                      AND (p.token IS NULL OR l.token = p.token)) END;
        -- One that was called and has not come, as there is no worker for it, must not keep the others: it stands in line again.
        UPDATE pgsagaz.limit_place p SET at = NULL, seq = DEFAULT
        WHERE p.name = p_name AND p.key = p_key AND p.at < pgsagaz.now() - interval '30 seconds' AND p.token IS NULL AND p.lane <> p_own
          AND NOT EXISTS (SELECT FROM pgsagaz.lane l WHERE l.saga_id = p.saga_id AND l.id = p.lane AND l.worker IS NOT NULL);
        SELECT line.concurrency - count(*) INTO room FROM pgsagaz.limit_place p
        WHERE p.name = p_name AND p.key = p_key AND p.at IS NOT NULL;
    END IF;
    WHILE room IS NULL OR room > 0 LOOP
        SELECT * INTO place FROM pgsagaz.limit_place p
        WHERE p.name = p_name AND p.key = p_key AND p.at IS NULL
          AND NOT EXISTS (SELECT FROM pgsagaz.saga s WHERE s.id = p.saga_id AND s.paused_at IS NOT NULL) -- it could not come
        ORDER BY p.seq LIMIT 1;
        EXIT WHEN NOT FOUND;
        SELECT l.worker IS NULL AND l.id <> p_own AS waits, l.queue, s.name, s.version INTO resting
        FROM pgsagaz.lane l JOIN pgsagaz.saga s ON s.id = l.saga_id
        WHERE l.saga_id = place.saga_id AND l.id = place.lane AND l.step = place.step AND l.direction = place.direction;
        IF NOT FOUND THEN -- its saga has turned back meanwhile
            DELETE FROM pgsagaz.limit_place p WHERE (p.saga_id, p.step, p.direction) = (place.saga_id, place.step, place.direction);
            CONTINUE;
        END IF;
        begins := pgsagaz.now();
        IF line.spacing IS NOT NULL THEN
            begins := greatest(begins, line.next_at);
            line.next_at := begins + line.spacing;
        END IF;
        UPDATE pgsagaz.limit_place p SET at = begins, most = line.concurrency
        WHERE (p.saga_id, p.step, p.direction) = (place.saga_id, place.step, place.direction);
        room := room - 1;
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
    IF line.next_at <> before THEN
        UPDATE pgsagaz.limit_line l SET next_at = line.next_at WHERE l.name = p_name AND l.key = p_key;
    END IF;
END
$$;

-- A lane has come to a step with a limit, or, with p_step '', to the beginning of a saga with one. wait: 0, it may begin;
-- above, in so many seconds; null, when it is called. If it may not begin now, the lane is given up here, in the
-- same transaction. In this order: saga, lane, line. Raises what fence does.
CREATE FUNCTION pgsagaz.limit_enter(
    p_saga uuid, p_from text[], p_lane bigint, p_token bigint, p_step text, p_direction text,
    p_name text, p_key text, p_concurrency integer, p_spacing interval,
    OUT wait double precision, OUT queues text[])
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    own pgsagaz.limit_place;
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
    INSERT INTO pgsagaz.limit_line (name, key, concurrency, spacing) VALUES (p_name, p_key, p_concurrency, p_spacing)
        ON CONFLICT (name, key) DO UPDATE SET concurrency = excluded.concurrency, spacing = excluded.spacing;

    SELECT * INTO own FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
    IF own.name <> p_name OR own.key <> p_key OR own.lane <> p_lane OR p_step <> '' AND own.token <> p_token THEN -- of another attempt
        DELETE FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
        own := NULL;
    END IF;
    IF own.saga_id IS NULL THEN
        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane)
            VALUES (p_name, p_key, p_saga, p_step, p_direction::pgsagaz.direction, p_lane);
    END IF;
    IF own.at IS NULL THEN
        SELECT array_agg(c.queue) INTO queues FROM pgsagaz.limit_call(p_name, p_key, p_lane) c WHERE c.seconds <= 0;
        SELECT at INTO own.at FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
    END IF;
    wait := CASE WHEN own.at IS NOT NULL THEN greatest(0, extract(epoch FROM own.at - pgsagaz.now())) END; -- greatest overlooks a null
    IF wait = 0 AND p_concurrency IS NULL THEN
        DELETE FROM pgsagaz.limit_place WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
    ELSIF wait = 0 THEN
        UPDATE pgsagaz.limit_place SET token = p_token WHERE saga_id = p_saga AND step = p_step AND direction = p_direction::pgsagaz.direction;
    ELSE
        -- Whoever frees a place calls it, and the sweeper does; if all else fails, it asks again.
        UPDATE pgsagaz.lane SET worker = NULL, token = NULL, job_id = NULL, run_at = coalesce(own.at, pgsagaz.now() + interval '5 minutes')
            WHERE saga_id = p_saga AND id = p_lane;
    END IF;
END
$$;

-- The place of a step, or with '' that of a saga, may be free: the next are called. After the commit that freed it.
CREATE FUNCTION pgsagaz.limit_leave(p_saga uuid, p_step text) RETURNS TABLE (queue text, seconds double precision)
    LANGUAGE plpgsql VOLATILE
    AS $$
DECLARE
    place record;
BEGIN
    FOR place IN SELECT p.name, p.key FROM pgsagaz.limit_place p WHERE p.saga_id = p_saga AND p.step = p_step
                 ORDER BY p.name, p.key LOOP
        PERFORM FROM pgsagaz.limit_line l WHERE l.name = place.name AND l.key = place.key FOR UPDATE;
        RETURN QUERY SELECT * FROM pgsagaz.limit_call(place.name, place.key, 0);
    END LOOP;
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
    WHERE (p.saga_id, p.step, p.direction) IN (
        SELECT o.saga_id, o.step, o.direction FROM pgsagaz.limit_place o
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
