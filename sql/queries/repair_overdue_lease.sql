-- As sweep_dead.sql frees lanes and outbox_beat frees buckets, and later than they would: nobody could beat while the server
-- was away.
WITH dead AS (
    SELECT w.id FROM pgsagaz.worker w
    WHERE w.beat_at + w.lease <= pgsagaz.now() - $1::interval AND clock_timestamp() - pg_postmaster_start_time() > w.lease
    FOR UPDATE SKIP LOCKED
), lanes AS (
    SELECT l.saga_id, l.id, l.worker FROM pgsagaz.lane l
    WHERE l.worker IS NOT NULL AND (l.worker IN (SELECT id FROM dead) OR NOT EXISTS (SELECT FROM pgsagaz.worker w WHERE w.id = l.worker))
    FOR UPDATE SKIP LOCKED
), freed AS (
    UPDATE pgsagaz.lane l
    SET worker = NULL, token = NULL, run_at = pgsagaz.now(), crashes = l.crashes + 1, in_doubt = true,
        error = coalesce(l.error, 'worker ' || f.worker || ' died'),
        job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority)
    FROM lanes f, pgsagaz.saga s
    WHERE l.saga_id = f.saga_id AND l.id = f.id AND s.id = f.saga_id
    RETURNING l.saga_id, s.name, l.step, l.direction, l.generation, l.attempt, f.worker
), noted AS (
    INSERT INTO pgsagaz.attempt (saga_id, step, direction, generation, attempt, kind, worker, error, started_at, ended_at)
    SELECT saga_id, step, direction, generation, attempt + 1, 'crash', worker, 'worker ' || worker || ' died', pgsagaz.now(), pgsagaz.now()
    FROM freed WHERE step <> ''
), relays AS (
    SELECT r.epoch, r.name FROM pgsagaz.outbox_relay r
    WHERE r.beat_at + r.lease <= pgsagaz.now() - $1::interval AND clock_timestamp() - pg_postmaster_start_time() > r.lease
    FOR UPDATE SKIP LOCKED
), cursors AS (
    UPDATE pgsagaz.outbox_cursor c SET epoch = NULL FROM relays r WHERE c.epoch = r.epoch
), buried AS (
    DELETE FROM pgsagaz.outbox_relay o USING relays r WHERE o.epoch = r.epoch
    RETURNING r.name, r.epoch
)
SELECT saga_id::text, name, step, 'taken from worker ' || worker FROM freed
UNION ALL SELECT '', '', '', format('the buckets of relay %s (%s) are free', name, epoch) FROM buried
