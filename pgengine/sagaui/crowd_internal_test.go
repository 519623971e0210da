package sagaui

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// crowd fills the tables: $SAGAS sagas, a tenth of a second apart, of which 4 in 5 have completed; one in 30 was compensated, one in
// 20 runs, one in 4,000 is stuck, one in 5,000 paused. A quarter as many lie in the archive, a tenth as many messages wait in the outbox
// and half as many are remembered by the inbox; there are dead letters, failures and an audit; and one saga has 5,000 children.
// Statements end at the end of a line.
const crowd = `
INSERT INTO pgsagaz.definition (name, version, graph) SELECT 'order', v, '{"steps": [{"name": "a", "kind": "tx", "after": [], "undo": true}, {"name": "b", "kind": "await", "after": ["a"], "signal": "go"}]}' FROM generate_series(1, 3) v;
INSERT INTO pgsagaz.definition (name, version, graph) VALUES ('refund', 1, '{"steps": [{"name": "a", "kind": "tx", "after": [], "undo": true}]}');
CREATE TEMPORARY TABLE one AS
SELECT n, pgsagaz.crowd_id(at, n) AS id, at, state, CASE WHEN n % 50 = 0 THEN 'refund' ELSE 'order' END AS name, CASE WHEN n % 50 = 0 THEN 1 ELSE 1 + 3 * n / ($SAGAS + 1) END AS version
FROM (SELECT n, now() - ($SAGAS - n) * interval '100 ms' AS at,
             CASE WHEN n % 4000 = 7 THEN 'stuck' WHEN n % 20 = 3 THEN 'running' WHEN n % 30 = 1 THEN 'compensated' ELSE 'completed' END AS state
      FROM generate_series(1, $SAGAS) n) s;
INSERT INTO pgsagaz.saga (id, name, version, state, key, tags, input, cause, created_at, ended_at, paused_at)
SELECT id, name, version, state::pgsagaz.saga_state, 'k' || n, CASE WHEN n = 77 THEN ARRAY['all', 'one'] ELSE ARRAY['all', 't' || n % 1000] END, '{"n": 1}',
       CASE WHEN state IN ('compensated', 'stuck') THEN jsonb_build_object('kind', 'step', 'step', 'b', 'error', 'the bank says no to ' || n) END,
       at, CASE WHEN state IN ('completed', 'compensated') THEN at + n % 5000 * interval '1 ms' END, CASE WHEN n % 5000 = 3 THEN at END
FROM one;
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, error, result, started_at, ended_at)
SELECT id, 'a', 'do', 1, 'done', 1, 1, NULL, '{"of": "a"}', at, at FROM one;
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, error, result, started_at, ended_at)
SELECT id, 'b', 'do', 1, CASE WHEN state = 'completed' THEN 'done' ELSE 'failed' END::pgsagaz.outcome, 2, 1, CASE WHEN state <> 'completed' THEN 'the bank says no to ' || n END, 'null', at, at FROM one WHERE state <> 'running';
INSERT INTO pgsagaz.attempt (saga_id, step, direction, generation, attempt, kind, error, started_at, ended_at)
SELECT id, 'b', 'do', 1, 1, 'error', 'the bank does not answer ' || n, at, at FROM one WHERE n % 7 = 1;
INSERT INTO pgsagaz.lane (saga_id, step, direction, queue, run_at, error) SELECT id, 'a', 'undo', 'default', 'infinity', 'the undo fails' FROM one WHERE state = 'stuck';
INSERT INTO pgsagaz.lane (saga_id, step, queue, waits, until, run_at) SELECT id, 'b', 'default', 'signal', 'infinity', 'infinity' FROM one WHERE state = 'running' AND n % 3 > 0;
INSERT INTO pgsagaz.lane (saga_id, step, queue, worker, token) SELECT id, 'b', 'default', 'worker-' || n % 9, n FROM one WHERE state = 'running' AND n % 3 = 0;
INSERT INTO pgsagaz.command (saga_id, kind) SELECT id, 'cancel' FROM one WHERE state = 'running' AND n % 600 = 3;
INSERT INTO pgsagaz.child (parent_id, step, item, name, input, saga_id, state)
SELECT (SELECT id FROM one WHERE n = 103), 'a', c.n, 'refund', '{}', c.id, NULL FROM one c WHERE n BETWEEN 1001 AND 6000;
INSERT INTO pgsagaz.audit (saga_id, saga, verb, actor, reason, at) SELECT id, name, 'retry', 'ann', 'why not', at FROM one WHERE n % 50 = 7;
INSERT INTO pgsagaz.worker (id, host, pid, lock_key, definitions, lease) SELECT 'worker-' || n, 'h', n, n, ARRAY['order/3', 'refund/1'], interval '1 hour' FROM generate_series(0, 8) n;
SELECT pgsagaz.archive_partition((now() - n * interval '1 day')::date) FROM generate_series(1, 31) n;
INSERT INTO pgsagaz.archive (id, name, version, state, key, tags, input, cause, created_at, ended_at, steps, attempts, signals, children)
SELECT pgsagaz.crowd_id(at, n), name, version, CASE WHEN n % 30 = 1 THEN 'compensated' ELSE 'completed' END::pgsagaz.saga_state, 'a' || n, ARRAY['t' || n % 1000], '{}', NULL, at, at + interval '1 s', '[{"step": "a", "direction": "do", "generation": 1, "state": "done", "attempt": 1}]', '[]', '[]', '[]'
FROM (SELECT n, name, version, now() - interval '2 days' - n * interval '2500 ms' * (1000000.0 / $SAGAS) AS at FROM one WHERE n <= $SAGAS / 4) s WHERE at > now() - interval '30 days';
INSERT INTO pgsagaz.outbox (slot, bucket, event_id, topic, key, routing_key, type, payload, headers, saga_id, step)
SELECT 0, n % 256, gen_random_uuid(), 'topic-' || n % 5, 'k' || n % 900, 'r', 't', '\x01', '{}', id, 'a' FROM one WHERE n % 10 = 0;
INSERT INTO pgsagaz.outbox_dead (id, slot, txid, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers, created_at, saga_id, step, attempts, error, stuck_at, holds)
SELECT n, 0, '1', n % 256, false, gen_random_uuid(), 'topic-' || n % 5, 'k' || n % 900, 'r', 't', convert_to(repeat('x', 3000) || n, 'UTF8'), '{}', at, id, 'a', 3, 'not known here', at, false FROM one WHERE n % 20 = 0;
INSERT INTO pgsagaz.outbox_stuck (id, slot, txid, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers, created_at, attempts, error)
SELECT n, 0, '1', n % 256, false, gen_random_uuid(), 'topic-0', 'k' || n % 90, 'r', 't', '\x01', '{}', at, 1, 'not yet' FROM one WHERE n % 1000 = 1;
SELECT pgsagaz.inbox_make_partitions(now());
INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, consumed_at)
SELECT pgsagaz.crowd_id(now() - n * interval '10 ms', n), 'consumer-' || n % 3, 'topic', 't', now() - n * interval '10 ms' FROM generate_series(1, $SAGAS / 2) n;
INSERT INTO pgsagaz.inbox_dead (consumer_name, event_id, message_id, source, attempt, source_topic, key, event_type, payload, headers, traceparent, reason, error, attempts, first_at)
SELECT 'consumer-' || n % 3, pgsagaz.crowd_id(at, n), 'm' || n, '', '', 'topic', 'k', 't', convert_to(repeat('y', 3000) || n, 'UTF8'), '{"h": "v"}', '', 'terminal', 'no such order ' || n, 1, at FROM one WHERE n % 20 = 1;
INSERT INTO pgsagaz.inbox_failure (consumer_name, event_id, source_topic, event_type, attempts, error)
SELECT 'consumer-' || n % 3, pgsagaz.crowd_id(at, n), 'topic', 't', 1, 'not yet' FROM one WHERE n % 50 = 2;
VACUUM ANALYZE`

// crowded fills the tables of a database, and empties them before the checks at the end of the test, which know the rows of an engine.
func crowded(t *testing.T, pool *pgxpool.Pool, sagas string) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	begun := time.Now()
	exec := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%v in:\n%s", err, statement)
		}
	}
	exec(`CREATE FUNCTION pgsagaz.crowd_id(p_at timestamptz, p_n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
	      $$ SELECT (lpad(to_hex((extract(epoch FROM p_at) * 1000)::bigint), 12, '0') || '70008' || lpad(to_hex(p_n), 15, '0'))::uuid $$`)
	for statement := range strings.SplitSeq(strings.ReplaceAll(crowd, "$SAGAS", sagas), ";\n") {
		exec(statement)
	}
	exec(`DROP TABLE one; DROP FUNCTION pgsagaz.crowd_id`)
	t.Logf("%s sagas are there after %v", sagas, time.Since(begun).Round(time.Millisecond))
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), `ALTER TABLE pgsagaz.audit DISABLE TRIGGER USER; ALTER TABLE pgsagaz.audit_answer DISABLE TRIGGER USER;
			TRUNCATE pgsagaz.saga, pgsagaz.step, pgsagaz.attempt, pgsagaz.lane, pgsagaz.command, pgsagaz.child, pgsagaz.audit, pgsagaz.audit_answer, pgsagaz.worker, pgsagaz.archive,
			         pgsagaz.outbox, pgsagaz.outbox_dead, pgsagaz.outbox_stuck, pgsagaz.consumer_inbox, pgsagaz.inbox_dead, pgsagaz.inbox_failure`)
		if err != nil {
			t.Error(err)
		}
	})
}
