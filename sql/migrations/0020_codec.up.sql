-- Keys of payloads, one a subject; see package codec. Without the key-encryption key that wraps it, none can be used.
CREATE TABLE pgsagaz.data_key (
    id         uuid PRIMARY KEY,            -- stands in each payload that is under it; zero: the common one
    subject    text NOT NULL UNIQUE,        -- '': nobody's, of the common one
    key_name   text,                        -- of the key-encryption key; null: erased
    wrapped    bytea,                       -- null: erased
    made_by    xid8 NOT NULL DEFAULT pg_current_xact_id(), -- until that has committed, nobody may count on the key
    created_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    wrapped_at timestamptz NOT NULL DEFAULT pgsagaz.now(),
    erased_at  timestamptz,
    erased_by  text,
    reason     text,
    CONSTRAINT data_key_is_there_or_erased CHECK (
        (key_name IS NULL) = (erased_at IS NOT NULL) AND (wrapped IS NULL) = (erased_at IS NOT NULL)
        AND (erased_by IS NULL) = (erased_at IS NULL) AND (reason IS NULL) = (erased_at IS NULL)),
    CONSTRAINT data_key_common_is_nobodys CHECK (
        (subject = '') = (id = '00000000-0000-0000-0000-000000000000') AND (subject <> '' OR erased_at IS NULL))
);
CREATE INDEX data_key_name_idx ON pgsagaz.data_key (key_name, id);

-- The key that a stored payload of a message is under; null: it is plain, or nobody's. Package codec writes what it reads.
CREATE FUNCTION pgsagaz.payload_key(p_payload bytea) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE WHEN substring(p_payload FROM 1 FOR 5) = '\x0070677301' AND octet_length(p_payload) >= 22 AND get_byte(p_payload, 5) & 5 <> 0
                THEN nullif(encode(substring(p_payload FROM 7 FOR 16), 'hex')::uuid, '00000000-0000-0000-0000-000000000000') END
    $$;

-- Keeps a subject from being erased until the end of the transaction, which writes something under its key: a saga or a message. Whoever
-- erases waits for this lock. Whoever comes here after him finds the key gone, though he may have it in memory. To a transaction with one
-- snapshot a key that was made after that is not there: it is not erased, and the next transaction sees it.
CREATE FUNCTION pgsagaz.data_key_hold(p_key uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE
    AS $$
BEGIN
    PERFORM FROM pgsagaz.data_key k WHERE k.id = p_key AND k.erased_at IS NULL FOR KEY SHARE;
    IF FOUND THEN
        RETURN;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' AND NOT EXISTS (SELECT FROM pgsagaz.data_key k WHERE k.id = p_key) THEN
        RAISE EXCEPTION 'pgsagaz: the key of this payload is newer than the transaction''s snapshot' USING ERRCODE = '40001',
            HINT = 'Try the whole transaction again.';
    END IF;
    RAISE EXCEPTION 'pgsagaz: the subject of this payload was erased' USING ERRCODE = 'PS040';
END
$$;

-- Destroys the key of a subject, for good. p_by '' or null: the user of the session. A second time changes nothing, and tells of the first. Unless p_force, it is refused while
-- sagas of the subject have not ended (PS042) or messages of theirs wait to be published.
CREATE FUNCTION pgsagaz.erase(
    p_subject text, p_by text, p_reason text, p_force boolean DEFAULT false,
    OUT done_at timestamptz, OUT done_by text, OUT why text, OUT before boolean, OUT unfinished bigint, OUT pending bigint)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pgsagaz, pg_temp
    AS $$
DECLARE
    k pgsagaz.data_key;
BEGIN
    IF coalesce(p_reason, '') = '' THEN
        RAISE EXCEPTION 'pgsagaz: an erasure needs a reason' USING ERRCODE = 'PS007';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'pgsagaz: erase needs a snapshot for each statement' USING ERRCODE = 'PS007';
    END IF;
    -- FOR UPDATE, which the NO KEY lock of an update is not: it waits for starts and messages that are under way, as they hold the row
    -- FOR KEY SHARE, and the statements after it see what became of them. Those that come later find the key gone.
    SELECT * INTO k FROM pgsagaz.data_key d WHERE d.subject = p_subject AND p_subject <> '' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pgsagaz: nothing is kept under the subject %', quote_literal(p_subject) USING ERRCODE = 'PS041';
    END IF;
    before := k.erased_at IS NOT NULL;
    SELECT count(*) INTO unfinished FROM pgsagaz.saga s WHERE s.data_key = k.id AND s.ended_at IS NULL;
    SELECT count(DISTINCT m.event_id) INTO pending FROM (
        SELECT o.event_id, o.payload FROM pgsagaz.outbox o
            JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
            WHERE NOT pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)
        UNION ALL SELECT d.event_id, d.payload FROM pgsagaz.outbox_direct d
        UNION ALL SELECT t.event_id, t.payload FROM pgsagaz.outbox_stuck t WHERE NOT t.done
        UNION ALL SELECT s.event_id, s.payload FROM pgsagaz.outbox_scheduled s) m
        WHERE pgsagaz.payload_key(m.payload) = k.id;
    IF NOT before AND NOT p_force AND unfinished + pending > 0 THEN
        RAISE EXCEPTION 'pgsagaz: subject % has % sagas that have not ended and % messages that wait to be published', quote_literal(p_subject), unfinished, pending
            USING ERRCODE = 'PS042', HINT = 'Let them end, or cancel them; by force the sagas get stuck and the messages become dead letters.';
    END IF;
    IF NOT before THEN
        PERFORM pgsagaz.durable();
        UPDATE pgsagaz.data_key d SET key_name = NULL, wrapped = NULL, erased_at = pgsagaz.now(), erased_by = coalesce(nullif(p_by, ''), session_user), reason = p_reason
            WHERE d.id = k.id RETURNING d.* INTO k;
    END IF;
    -- By the key's id, not by the subject: the audit stays for good, and who he was need not.
    PERFORM pgsagaz.audit_act('codec', k.id::text, 'erase', p_by, p_reason,
                              jsonb_build_object('unfinished', unfinished, 'pending', pending), CASE WHEN before THEN 'already' ELSE 'obeyed' END);
    done_at := k.erased_at;
    done_by := k.erased_by;
    why := k.reason;
END
$$;

UPDATE pgsagaz.schema_info SET version = 20;
