-- Enums rather than CHECKs: Postgres parses and plans every CHECK of a table again with each statement
-- that writes it, some 5 us apiece, and a step's commit writes two of these tables.
CREATE TYPE pgsagaz.saga_state AS ENUM ('running', 'failing', 'compensating', 'stuck', 'completed', 'compensated');
CREATE TYPE pgsagaz.direction AS ENUM ('do', 'undo');
CREATE TYPE pgsagaz.outcome AS ENUM ('done', 'failed', 'nothing', 'skipped');
CREATE TYPE pgsagaz.waiting AS ENUM ('signal', 'sleep', 'child');

-- Definitions as their workers registered them, so that tools can draw a saga without its code.
CREATE TABLE pgsagaz.definition (
    name          text NOT NULL CHECK (name <> ''),
    version       integer NOT NULL CHECK (version > 0),
    graph         jsonb NOT NULL,
    timeout       interval,                 -- of the whole saga; null: none
    priority      smallint NOT NULL GENERATED ALWAYS AS (coalesce((graph ->> 'priority')::smallint, 1::smallint)) STORED, -- of its steps, as far as they do not say
    registered_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    PRIMARY KEY (name, version)
);

-- One row a saga. It is written at the start, when the state changes, and never by a step that goes well:
-- a step only locks it.
CREATE TABLE pgsagaz.saga (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    version     integer NOT NULL,
    state       pgsagaz.saga_state NOT NULL DEFAULT 'running',
    key         text,
    tags        text[] NOT NULL DEFAULT '{}',
    input       json NOT NULL,
    cause       jsonb,                      -- why it turned back
    traceparent text,
    created_at  timestamptz NOT NULL DEFAULT pgsagaz.now(),
    deadline    timestamptz,
    turned_at   timestamptz,                -- when it began to turn back
    ended_at    timestamptz,
    paused_at   timestamptz,                -- since then nothing of it is begun
    parent_id   uuid,                       -- of a child: whose step it is
    parent_step text,
    parent_item integer,
    data_key    uuid,                       -- of whom its payloads are, if they are encrypted; see 0020_codec
    CONSTRAINT saga_ends_with_its_state_and_turns_back_for_a_cause CHECK (
        (ended_at IS NOT NULL) = (state >= 'completed') AND (cause IS NOT NULL) = (state NOT IN ('running', 'completed')))
) WITH (fillfactor = 80);
-- No index knows state or ended_at, so that the update which ends a saga is a HOT one. What has not ended
-- is found through its lanes.
CREATE INDEX saga_name_idx ON pgsagaz.saga (name, id);
CREATE INDEX saga_key_idx ON pgsagaz.saga (key) WHERE key IS NOT NULL;
CREATE INDEX saga_data_key_idx ON pgsagaz.saga (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX saga_tags_idx ON pgsagaz.saga USING gin (tags) WHERE tags <> '{}';
CREATE INDEX saga_paused_idx ON pgsagaz.saga (id) WHERE paused_at IS NOT NULL; -- few

-- The ways that states may go. Whatever else a mistake might write, the database refuses; the common end
-- of a saga does not call this.
CREATE FUNCTION pgsagaz.refuse_transition() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT (CASE OLD.state
        WHEN 'running'      THEN NEW.state IN ('failing', 'compensating', 'compensated', 'stuck', 'completed')
        WHEN 'failing'      THEN NEW.state IN ('compensating', 'compensated', 'stuck', 'running', 'completed') -- forward: its pivot came through
        WHEN 'compensating' THEN NEW.state IN ('compensated', 'stuck')
        WHEN 'stuck'        THEN NEW.state IN ('running', 'failing', 'compensating', 'compensated', 'completed') -- an operator acted
        WHEN 'completed'    THEN NEW.state IN ('compensating', 'compensated', 'stuck') AND NEW.parent_id IS NOT NULL -- its parent takes it back
        WHEN 'compensated'  THEN NEW.state IN ('compensating', 'stuck') -- a result came after its undo
    END) THEN
        RAISE EXCEPTION 'pgsagaz: saga % may not go from % to %', NEW.id, OLD.state, NEW.state USING ERRCODE = 'PS010';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER saga_transition BEFORE UPDATE ON pgsagaz.saga FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND NOT (OLD.state = 'running' AND NEW.state = 'completed'))
    EXECUTE FUNCTION pgsagaz.refuse_transition();

-- Deadlines to come, of the sagas that have one. A row goes when it has fallen due.
CREATE TABLE pgsagaz.deadline (
    saga_id uuid PRIMARY KEY,
    due_at  timestamptz NOT NULL
);
CREATE INDEX deadline_due_idx ON pgsagaz.deadline (due_at);

-- An idempotent start: one saga a key. Kept apart, so that keys outlive the saga's live rows.
CREATE TABLE pgsagaz.start_key (
    name       text NOT NULL,
    key        text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 512),
    saga_id    uuid NOT NULL,
    input_hash bytea NOT NULL,              -- sha-256 of the canonical input; of an encoded one 1 and its fingerprint
    created_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    PRIMARY KEY (name, key)
);

-- A lane is a worker's way through a saga: the claim on one step at a time, moved from step to step by
-- the commit that ends each. No row here, no call: a step is only begun under a committed claim.
-- worker and token say who drives it; a lane without them waits for a job, or for its time.
CREATE TABLE pgsagaz.lane (
    saga_id    uuid NOT NULL,
    id         bigint GENERATED BY DEFAULT AS IDENTITY,
    step       text NOT NULL,               -- '': nothing yet, plan what is ready
    direction  pgsagaz.direction NOT NULL DEFAULT 'do',
    generation integer NOT NULL DEFAULT 1,  -- 0: nothing yet, in a saga that goes on for another
    queue      text NOT NULL,
    priority   smallint NOT NULL DEFAULT 1, -- in its queue: 1, which goes first, to 4
    worker     text,
    token      bigint,                      -- new with every take-over: the fence
    job_id     bigint,                      -- the River job that was last sent for this lane
    attempt    integer NOT NULL DEFAULT 0,  -- failed attempts at this step
    crashes    integer NOT NULL DEFAULT 0,  -- workers that died at this step
    run_at     timestamptz NOT NULL DEFAULT pgsagaz.now(), -- infinity: parked until an operator acts, or what it waits for
    waits      pgsagaz.waiting,             -- for what, if the step itself waits
    until      timestamptz,                 -- when that wait ends by itself
    in_doubt   boolean NOT NULL DEFAULT false, -- something was begun outside and its outcome is unknown
    error      text,                        -- of the last failed attempt
    PRIMARY KEY (saga_id, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
-- What a worker holds, and what waits for its time. A lane whose job is on its way is in neither, and
-- the step that a lane is at in no index: moving it is a HOT update.
CREATE INDEX lane_worker_idx ON pgsagaz.lane (worker, run_at) WHERE worker IS NOT NULL OR job_id IS NULL;

-- What is known of each step, for good. The primary key is the promise: one outcome a step, direction
-- and generation. A second generation exists only where a result arrived after its undo.
CREATE TABLE pgsagaz.step (
    saga_id    uuid NOT NULL,
    step       text NOT NULL,
    direction  pgsagaz.direction NOT NULL,
    generation integer NOT NULL,
    outcome    pgsagaz.outcome NOT NULL,    -- nothing: an undo that found no effect
    in_doubt   boolean NOT NULL DEFAULT false,
    attempt    integer NOT NULL,
    token      bigint,                      -- of the lane that committed it
    worker     text,
    result     json,
    error      text,
    note       text,                        -- of an operator who decided it
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    origin     uuid,                        -- of an outcome that was taken over: the saga that it is of
    PRIMARY KEY (saga_id, step, direction, generation)
);

-- The sagas that a step has started, or will: what they are to be is recorded before the first starts.
-- Written under the parent's lock alone.
CREATE TABLE pgsagaz.child (
    parent_id uuid NOT NULL,
    step      text NOT NULL,
    item      integer NOT NULL,
    name      text NOT NULL,
    input     json NOT NULL,
    tries     integer NOT NULL DEFAULT 0,
    saga_id   uuid,                         -- of the latest try
    state     pgsagaz.saga_state,           -- null: not started; completed or compensated: it has told so
    reverting boolean NOT NULL DEFAULT false, -- it was asked to turn back
    PRIMARY KEY (parent_id, step, item)
);

-- Signals that have reached a saga. The first of a name is for the first step that awaits it. Written
-- under the saga's lock alone.
CREATE TABLE pgsagaz.signal (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id uuid NOT NULL,
    name    text NOT NULL,
    key     text,                           -- the sender's own, so that he may send it twice
    payload json NOT NULL,
    sent_at timestamptz NOT NULL,
    step    text,                           -- that took it
    UNIQUE (saga_id, name, key)
);

-- Attempts that failed, for whoever has to find out why. pgsagaz.retry_later keeps them few.
CREATE TABLE pgsagaz.attempt (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id    uuid NOT NULL,
    step       text NOT NULL,
    direction  text NOT NULL,
    generation integer NOT NULL,
    attempt    integer NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('error', 'timeout', 'panic', 'crash')),
    worker     text,
    error      text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL
);
CREATE INDEX attempt_saga_idx ON pgsagaz.attempt (saga_id);

-- What was asked of a saga from outside. The asker locks nothing; the engine applies it in a
-- transaction of its own and removes the row.
CREATE TABLE pgsagaz.command (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id    uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('cancel', 'abandon', 'pause', 'resume', 'retry', 'skip', 'resolve', 'signal', -- people's
                                          'deadline', 'child', 'revert', 'plan')), -- plan: nothing, but to look at what is to follow
    reason     text NOT NULL DEFAULT '',
    body       json,
    audit_id   bigint,                      -- where it is written down who asks for it
    job_id     bigint,
    created_at timestamptz NOT NULL DEFAULT pgsagaz.now()
);
CREATE INDEX command_saga_idx ON pgsagaz.command (saga_id);

-- Who works. A worker lives while it holds its session advisory lock (0x5047535A, lock_key) or has
-- beaten within its lease; the sweeper of any process takes back what a dead one held.
CREATE TABLE pgsagaz.worker (
    id          text PRIMARY KEY,
    host        text NOT NULL,
    pid         integer NOT NULL,
    lock_key    integer NOT NULL,
    lease       interval NOT NULL,
    definitions text[] NOT NULL,            -- name/version of each saga it has the code of
    started_at  timestamptz NOT NULL DEFAULT pgsagaz.now(),
    beat_at     timestamptz NOT NULL DEFAULT pgsagaz.now()
) WITH (fillfactor = 50);

UPDATE pgsagaz.schema_info SET version = 11;
