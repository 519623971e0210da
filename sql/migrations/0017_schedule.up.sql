-- Sagas that are started by the clock. The slot is the fence, and nobody leads: whoever locks the row of a schedule that
-- is due starts its sagas and moves next_at in one transaction, and each has its slot in its start key.
CREATE TABLE pgsagaz.schedule (
    name       text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 200),
    cron       text NOT NULL,
    zone       text NOT NULL,                -- as the IANA names it
    saga       text NOT NULL,
    input      json NOT NULL,
    slot_field text,                         -- of the input, which is set to the slot's time
    tags       text[] NOT NULL,
    timeout    interval,                     -- of each saga; null: the definition's
    catch_up   text NOT NULL CHECK (catch_up IN ('skip', 'once', 'all')),
    most       integer NOT NULL CHECK (most > 0), -- sagas that one round starts, when it is late
    grace      interval NOT NULL,            -- a slot is on time for as long
    next_at    timestamptz NOT NULL,         -- the slot that comes next; infinity: none ever will
    retry_at   timestamptz,                  -- not before, since the last try failed
    paused_at  timestamptz,
    last_at    timestamptz,                  -- the slot of the saga that was started last
    last_saga  uuid,
    error      text,                         -- of the last try, if that failed
    created_at timestamptz NOT NULL DEFAULT pgsagaz.now()
);

UPDATE pgsagaz.schema_info SET version = 17;
