-- Messages on their way to a broker, written in the transaction they tell of.
CREATE TABLE pgsagaz.outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    uuid NOT NULL,
    bucket      smallint NOT NULL CHECK (bucket BETWEEN 0 AND 255),
    txid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    topic       text NOT NULL CHECK (topic <> ''),
    key         text,
    routing_key text NOT NULL DEFAULT '',
    type        text NOT NULL CHECK (type <> ''),
    payload     bytea NOT NULL,
    headers     jsonb NOT NULL DEFAULT '{}',
    traceparent text,
    saga_id     uuid,
    step        text,
    created_at  timestamptz NOT NULL DEFAULT pgsagaz.now()
);
CREATE INDEX outbox_saga_idx ON pgsagaz.outbox (saga_id) WHERE saga_id IS NOT NULL;

UPDATE pgsagaz.schema_info SET version = 13;
