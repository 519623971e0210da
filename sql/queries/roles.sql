-- Makes the four roles that are missing, and gives each its rights anew: after every migration, as what that brought is
-- nobody's. Their names are settings of the session. Whoever runs it owns the schema; he needs CREATEROLE
-- only for roles that are not there.
DO $$
DECLARE
    app      constant text := current_setting('pgsagaz.role_app');
    worker   constant text := current_setting('pgsagaz.role_worker');
    ops      constant text := current_setting('pgsagaz.role_ops');
    readonly constant text := current_setting('pgsagaz.role_readonly');
    role     text;
    may      record;
    f        regprocedure;
BEGIN
    REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA pgsagaz FROM PUBLIC;
    FOREACH role IN ARRAY ARRAY[app, worker, ops, readonly] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA pgsagaz FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgsagaz FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgsagaz FROM %I', role);
        EXECUTE format('GRANT USAGE ON SCHEMA pgsagaz TO %I', role);
    END LOOP;

    -- A service: it calls functions, and sees no table.
    -- An operator: he reads everything, and asks.
    FOR may IN SELECT * FROM (VALUES
        (app, ARRAY['start', 'start_many', 'signal', 'saga_by_key', 'status', 'publish', 'inbox_claim', 'now', 'uuid7']),
        (ops, ARRAY['ask', 'restart', 'start', 'start_many', 'signal', 'saga_by_key', 'status', 'cancel', 'pause', 'unpause', 'retry', 'skip', 'resolve',
                    'outbox_redrive', 'outbox_drop', 'inbox_redrive', 'inbox_drop', 'erase', 'now', 'uuid7']),
        (readonly, ARRAY['now'])) AS m(role, functions) LOOP
        FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pgsagaz'::regnamespace AND proname = ANY (may.functions) LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f, may.role);
        END LOOP;
    END LOOP;
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA pgsagaz TO %I', ops);

    -- A monitor: what has no payload in it.
    EXECUTE format('GRANT SELECT ON pgsagaz.sagas, pgsagaz.steps, pgsagaz.audit_log, pgsagaz.schema_info, pgsagaz.definition, pgsagaz.worker TO %I', readonly);

    -- A worker writes what there is, but for the audit, which it adds its answers to. What it creates and drops, functions do.
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgsagaz TO %I', worker);
    EXECUTE format('REVOKE UPDATE, DELETE ON pgsagaz.audit, pgsagaz.audit_answer, pgsagaz.schema_info FROM %I', worker);
    EXECUTE format('REVOKE INSERT ON pgsagaz.schema_info FROM %I', worker);
    EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA pgsagaz TO %I', worker);
    EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgsagaz TO %I', worker);
END
$$;
