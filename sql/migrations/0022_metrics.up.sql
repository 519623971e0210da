-- Figures of the whole system, for whoever watches it. What a single process knows of itself it exports itself.

-- The one process that reads the view below and exports it, so that a sum over all processes does not count a
-- figure twice. It keeps the lease for as long as it asks again in time.
CREATE TABLE pgsagaz.metrics_leader (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    holder   text NOT NULL,
    until    timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Lanes that wait for an operator: few, among the many that wait for a signal.
CREATE INDEX lane_parked_idx ON pgsagaz.lane (saga_id) WHERE run_at = 'infinity' AND waits IS NULL AND worker IS NULL;

-- Nothing here counts what may be without end: a backlog is the distance of the cursors from the last id, of which the
-- first 2,000 rows of each are looked at; other counts stop at 10,000. Names and labels are those under which
-- processes export them.
CREATE VIEW pgsagaz.metrics (name, labels, value) AS
WITH cursor AS MATERIALIZED (
    SELECT c.id, c.prev, c.cur, c.last_id, count(*) AS buckets
    FROM pgsagaz.outbox_cursor c JOIN pgsagaz.outbox_bucket b ON b.cursor_id = c.id GROUP BY c.id
), head AS MATERIALIZED ( -- what comes next at each cursor: where it is within a pair of snapshots by id, else by transaction
    SELECT c.id AS cursor_id, c.buckets, h.id, h.topic, h.created_at,
           b.cursor_id = c.id AND NOT pgsagaz.outbox_consumed(h.txid, h.id, c.prev, c.cur, c.last_id)
             AND NOT EXISTS (SELECT FROM pgsagaz.outbox_stuck s WHERE s.id = h.id) AS pending
    FROM cursor c CROSS JOIN LATERAL (
        (SELECT o.id, o.txid, o.bucket, o.topic, o.created_at FROM pgsagaz.outbox o
         WHERE c.cur IS NULL AND o.txid >= pg_snapshot_xmax(c.prev) ORDER BY o.txid LIMIT 2000)
        UNION ALL -- transactions that ran when prev was taken
        (SELECT o.id, o.txid, o.bucket, o.topic, o.created_at FROM pgsagaz.outbox o
         WHERE c.cur IS NULL AND o.txid = ANY (ARRAY(SELECT pg_snapshot_xip(c.prev))) LIMIT 2000)
        UNION ALL
        (SELECT o.id, o.txid, o.bucket, o.topic, o.created_at FROM pgsagaz.outbox o
         WHERE c.cur IS NOT NULL AND o.id > c.last_id ORDER BY o.id LIMIT 2000)) h
    JOIN pgsagaz.outbox_bucket b ON b.bucket = h.bucket
), backlog AS (
    SELECT count(*) FILTER (WHERE h.pending)
           + CASE WHEN count(*) >= 2000 THEN greatest(0, (SELECT last_value FROM pgsagaz.outbox_id_seq) - max(h.id)) * min(h.buckets) / 256 ELSE 0 END AS events
    FROM head h GROUP BY h.cursor_id
), total AS (
    SELECT coalesce(sum(events), 0)::float8 AS pending FROM backlog
), age AS (
    SELECT h.topic, extract(epoch FROM pgsagaz.now() - min(h.created_at))::float8 AS seconds
    FROM head h WHERE h.pending GROUP BY h.topic ORDER BY 2 DESC LIMIT 50
)
SELECT 'outbox_pending_events_total', '{}'::jsonb, pending FROM total
UNION ALL
SELECT 'outbox_oldest_pending_seconds', jsonb_build_object('topic', topic), greatest(0, seconds) FROM age
UNION ALL
SELECT 'outbox_oldest_pending_seconds', '{"topic": ""}', 0 WHERE NOT EXISTS (SELECT FROM age)
UNION ALL
SELECT 'outbox_events_by_state', jsonb_build_object('state', state), n::float8
FROM (SELECT 'pending' AS state, pending AS n FROM total
      UNION ALL SELECT 'stuck', (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_stuck WHERE NOT done LIMIT 10000) x)
      UNION ALL SELECT 'scheduled', (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_scheduled LIMIT 10000) x)
      UNION ALL SELECT 'dead_letter', (SELECT count(*) FROM (SELECT FROM pgsagaz.outbox_dead LIMIT 10000) x)) states
UNION ALL
SELECT 'outbox_relays', '{}', count(*) FROM pgsagaz.outbox_relay WHERE beat_at + lease >= pgsagaz.now()
UNION ALL
SELECT 'outbox_slots_in_use', '{}', EXISTS (SELECT FROM pgsagaz.outbox_0)::int + EXISTS (SELECT FROM pgsagaz.outbox_1)::int
                                  + EXISTS (SELECT FROM pgsagaz.outbox_2)::int + EXISTS (SELECT FROM pgsagaz.outbox_3)::int
UNION ALL
SELECT 'saga_stuck', jsonb_build_object('saga_name', d.name), count(DISTINCT p.id)
FROM (SELECT DISTINCT name FROM pgsagaz.definition) d
LEFT JOIN (SELECT s.name, s.id FROM (SELECT saga_id FROM pgsagaz.lane WHERE run_at = 'infinity' AND waits IS NULL AND worker IS NULL LIMIT 10000) l
           JOIN pgsagaz.saga s ON s.id = l.saga_id AND s.state = 'stuck') p ON p.name = d.name
GROUP BY d.name
UNION ALL
SELECT 'saga_deadline_overdue_seconds', '{}', greatest(0, coalesce(extract(epoch FROM pgsagaz.now() - (SELECT min(due_at) FROM pgsagaz.deadline)), 0))::float8
UNION ALL
SELECT 'saga_workers', '{}', count(*) FROM pgsagaz.worker WHERE beat_at + lease >= pgsagaz.now()
UNION ALL
SELECT 'river_queue_oldest_seconds', jsonb_build_object('queue', q.name),
       greatest(0, coalesce(extract(epoch FROM clock_timestamp() - min(j.scheduled_at)), 0))::float8
FROM pgsagaz.river_queue q CROSS JOIN generate_series(1, 4) AS p(priority)
LEFT JOIN LATERAL (SELECT scheduled_at FROM pgsagaz.river_job j
                   WHERE j.state = 'available' AND j.queue = q.name AND j.priority = p.priority ORDER BY scheduled_at LIMIT 1) j ON true
GROUP BY q.name
UNION ALL
SELECT 'consumer_inbox_dead_letters', jsonb_build_object('consumer_name', c.name),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_dead d WHERE d.consumer_name = c.name LIMIT 10000) x)
FROM pgsagaz.inbox_consumer c
UNION ALL
SELECT 'consumer_inbox_failing', jsonb_build_object('consumer_name', c.name),
       (SELECT count(*) FROM (SELECT FROM pgsagaz.inbox_failure f WHERE f.consumer_name = c.name LIMIT 10000) x)
FROM pgsagaz.inbox_consumer c
UNION ALL
SELECT 'pgsagaz_xmin_age_transactions', '{}',
       greatest((SELECT coalesce(max(age(backend_xmin)), 0) FROM pg_stat_activity),
                (SELECT coalesce(max(greatest(age(xmin), age(catalog_xmin))), 0) FROM pg_replication_slots),
                (SELECT coalesce(max(age(transaction)), 0) FROM pg_prepared_xacts))
UNION ALL
SELECT 'pgsagaz_oldest_transaction_seconds', '{}',
       (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity WHERE state <> 'idle')::float8
UNION ALL
SELECT 'pgsagaz_prepared_transactions', '{}', count(*) FROM pg_prepared_xacts
UNION ALL
SELECT 'pgsagaz_notify_queue_ratio', '{}', pg_notification_queue_usage()
UNION ALL
SELECT 'pgsagaz_dead_tuples', jsonb_build_object('table', s.relname), s.n_dead_tup::float8
FROM pg_stat_user_tables s
WHERE s.schemaname = 'pgsagaz' AND s.relname IN ('saga', 'lane', 'step', 'river_job', 'outbox_cursor', 'outbox_relay', 'inbox_failure')
UNION ALL
SELECT 'pgsagaz_table_bytes', jsonb_build_object('table', s.relname), pg_total_relation_size(s.relid)::float8
FROM pg_stat_user_tables s
WHERE s.schemaname = 'pgsagaz' AND s.relname IN ('saga', 'lane', 'step', 'attempt', 'river_job', 'outbox_0', 'outbox_1', 'outbox_2', 'outbox_3');

UPDATE pgsagaz.schema_info SET version = 22;
