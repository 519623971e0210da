-- Takes back what dead workers held: their lanes get a new job, their River jobs are given back.
-- Dead: the session lock is gone and the last beat is older than $2 (an owner that lost only its session
-- takes a new one within a beat), or the lease ran out (a process that hangs keeps its session), or there
-- is no such worker. SKIP LOCKED: whoever holds the row is alive, or another sweeper does the same.
WITH dead AS (
    SELECT w.id FROM pgsagaz.worker w
    WHERE w.id <> $1
      -- Nobody could beat while the server was away: for one lease after its start nobody is dead. (Before it, the clock was set back.)
      AND clock_timestamp() - pg_postmaster_start_time() NOT BETWEEN '0' AND w.lease
      AND (w.beat_at < pgsagaz.now() - w.lease
        OR (w.beat_at < pgsagaz.now() - $2::interval
            AND NOT EXISTS (SELECT FROM pg_locks l
                            WHERE l.locktype = 'advisory' AND l.classid = 1346851674 AND l.objid = w.lock_key::oid
                              AND l.objsubid = 2 AND l.granted
                              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))))
    FOR UPDATE SKIP LOCKED
), holders AS (
    SELECT id FROM dead
    UNION
    SELECT DISTINCT l.worker FROM pgsagaz.lane l
    WHERE l.worker IS NOT NULL AND l.worker <> $1 AND NOT EXISTS (SELECT FROM pgsagaz.worker w WHERE w.id = l.worker)
), lanes AS (
    SELECT l.saga_id, l.id, l.worker, l.step, l.direction FROM pgsagaz.lane l WHERE l.worker IN (SELECT id FROM holders)
    FOR UPDATE SKIP LOCKED
), freed AS (
    UPDATE pgsagaz.lane l
    SET worker = NULL, token = NULL, run_at = pgsagaz.now(), crashes = l.crashes + 1, in_doubt = true,
        error = coalesce(l.error, 'worker ' || f.worker || ' died'),
        job_id = pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue, l.priority)
    FROM lanes f, pgsagaz.saga s
    WHERE l.saga_id = f.saga_id AND l.id = f.id AND s.id = f.saga_id
    RETURNING l.id, l.saga_id, l.step, l.direction, l.generation, l.attempt, l.crashes, l.queue, f.worker
), noted AS (
    INSERT INTO pgsagaz.attempt (saga_id, step, direction, generation, attempt, kind, worker, error, started_at, ended_at)
    SELECT saga_id, step, direction, generation, attempt + 1, 'crash', worker, 'worker ' || worker || ' died', pgsagaz.now(), pgsagaz.now()
    FROM freed WHERE step <> ''
), jobs AS (
    UPDATE pgsagaz.river_job j SET state = 'available', scheduled_at = now()
    WHERE j.id IN (SELECT id FROM pgsagaz.river_job
                   WHERE state = 'running' AND kind LIKE 'pgsagaz/%'
                     -- or of one that has signed off: a step that ignored its end was left running
                     AND attempted_by[array_upper(attempted_by, 1)] NOT IN (
                         SELECT id FROM pgsagaz.worker WHERE id NOT IN (SELECT id FROM dead))
                   FOR UPDATE SKIP LOCKED)
    RETURNING j.queue
), gone AS (
    DELETE FROM pgsagaz.worker w WHERE w.id IN (SELECT id FROM dead) AND w.beat_at < pgsagaz.now() - 10 * w.lease
)
SELECT 'lane', worker, queue, saga_id::text, step FROM freed
UNION ALL SELECT 'job', '', queue, '', '' FROM jobs
