DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p
             WHERE p.pronamespace = 'pgsagaz'::regnamespace AND p.prosecdef AND p.proname IN (
                 'start', 'signal', 'saga_by_key', 'ask', 'restart', 'publish', 'inbox_claim',
                 'outbox_redrive', 'outbox_drop', 'inbox_redrive', 'inbox_drop',
                 'archive_partition', 'archive_batch', 'archive_retain', 'outbox_archive_day', 'outbox_archive_drop', 'outbox_truncate', 'outbox_rotate', 'outbox_direct_tend',
                 'inbox_make_partitions', 'inbox_drop_partition') LOOP
        EXECUTE 'ALTER FUNCTION ' || f || ' SECURITY INVOKER RESET search_path';
    END LOOP;
END
$$;
DROP VIEW pgsagaz.audit_log;
DROP VIEW pgsagaz.steps;
DROP VIEW pgsagaz.sagas;
DROP FUNCTION pgsagaz.resolve(uuid, text, text, json, text, text);
DROP FUNCTION pgsagaz.skip(uuid, text, text, text);
DROP FUNCTION pgsagaz.about(uuid, text, text, json);
DROP FUNCTION pgsagaz.retry(uuid, text, text, text);
DROP FUNCTION pgsagaz.unpause(uuid, text, text);
DROP FUNCTION pgsagaz.pause(uuid, text, text);
DROP FUNCTION pgsagaz.cancel(uuid, text, text, boolean);
DROP FUNCTION pgsagaz.status(uuid);
UPDATE pgsagaz.schema_info SET version = 18;
