CREATE SCHEMA IF NOT EXISTS demo;

-- What lies on the shelves. initial = on_shelf + shipped once no order is open.
CREATE TABLE IF NOT EXISTS demo.stock (
    run      text NOT NULL,
    sku      text NOT NULL,
    initial  integer NOT NULL,
    on_shelf integer NOT NULL CHECK (on_shelf >= 0),
    shipped  integer NOT NULL DEFAULT 0 CHECK (shipped >= 0),
    PRIMARY KEY (run, sku)
);
CREATE TABLE IF NOT EXISTS demo.orders (
    id       text PRIMARY KEY,
    run      text NOT NULL,
    saga_id  uuid NOT NULL,
    sku      text NOT NULL,
    quantity integer NOT NULL,
    cents    bigint NOT NULL,
    doomed   text NOT NULL DEFAULT ''       -- why it cannot succeed
);
CREATE INDEX IF NOT EXISTS orders_run_idx ON demo.orders (run);
CREATE TABLE IF NOT EXISTS demo.reservation (
    order_id text PRIMARY KEY,
    run      text NOT NULL,
    sku      text NOT NULL,
    quantity integer NOT NULL,
    state    text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'shipped', 'released'))
);
-- The shop's own books, to be held against the bank's.
CREATE TABLE IF NOT EXISTS demo.payment (
    order_id text PRIMARY KEY,
    run      text NOT NULL,
    bank_id  bigint NOT NULL,
    cents    bigint NOT NULL,
    state    text NOT NULL DEFAULT 'paid' CHECK (state IN ('paid', 'refunded'))
);
CREATE TABLE IF NOT EXISTS demo.parcel (
    order_id text PRIMARY KEY,
    run      text NOT NULL,
    sku      text NOT NULL,
    quantity integer NOT NULL,
    address  text NOT NULL,
    state    text NOT NULL DEFAULT 'sent' CHECK (state IN ('sent', 'called back'))
);

-- The bank is somebody else: the shop never looks in here, only the auditor does.
CREATE SCHEMA IF NOT EXISTS bank;

CREATE TABLE IF NOT EXISTS bank.charge (
    key   text PRIMARY KEY,                 -- the caller's idempotency key
    id    bigint GENERATED ALWAYS AS IDENTITY,
    card  text NOT NULL,
    cents bigint NOT NULL,
    -- cancelled: refunded before it was charged; a charge that comes later is refused
    state text NOT NULL CHECK (state IN ('charged', 'declined', 'refunded', 'cancelled'))
);
-- Money that moved: above 0 a charge, below 0 a refund.
CREATE TABLE IF NOT EXISTS bank.entry (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key   text NOT NULL,
    cents bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_key_idx ON bank.entry (key);
