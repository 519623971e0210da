package sql_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// tended is a database in which everything is seen to: a live worker, a lane that is due and has its job, a message that was
// published, a relay, an inbox with partitions ahead. An hour has passed since all of it.
const tended = `
ALTER TABLE pgsagaz.audit DISABLE TRIGGER USER; -- which refuse it
ALTER TABLE pgsagaz.audit_answer DISABLE TRIGGER USER;
TRUNCATE pgsagaz.audit, pgsagaz.audit_answer, pgsagaz.definition, pgsagaz.saga, pgsagaz.lane, pgsagaz.step, pgsagaz.command, pgsagaz.deadline, pgsagaz.worker, pgsagaz.river_job,
	pgsagaz.outbox, pgsagaz.outbox_scheduled, pgsagaz.outbox_direct, pgsagaz.outbox_stuck, pgsagaz.outbox_bucket, pgsagaz.outbox_cursor, pgsagaz.outbox_relay, pgsagaz.inbox_consumer;
INSERT INTO pgsagaz.outbox_cursor (id, prev) OVERRIDING SYSTEM VALUE VALUES (1, '3:3:');
INSERT INTO pgsagaz.outbox_bucket (bucket, cursor_id) SELECT g, 1 FROM generate_series(0, 255) g;
INSERT INTO pgsagaz.definition (name, version, registered_at, graph) VALUES ('order', 1, now() - interval '1 day', '{"steps": [{"name": "a"}, {"name": "b", "after": ["a"]}]}');
INSERT INTO pgsagaz.worker (id, host, pid, lock_key, lease, definitions) VALUES ('w', '', 1, 1, '1 minute', '{order/1}');
SELECT pgsagaz.start('order', '{}', p_id => '00000000-0000-7000-8000-000000000001');
UPDATE pgsagaz.lane SET step = 'a', run_at = now() - interval '1 hour';
SELECT pgsagaz.publish('t', 'x', 'k');
UPDATE pgsagaz.outbox SET created_at = now() - interval '1 hour';
INSERT INTO pgsagaz.outbox_relay (name, lease) VALUES ('r', '1 minute');
UPDATE pgsagaz.outbox_cursor SET epoch = (SELECT epoch FROM pgsagaz.outbox_relay);
INSERT INTO pgsagaz.inbox_consumer (name, horizon, seen_at) VALUES ('c', '7 days', now() - interval '1 hour');
SELECT pgsagaz.inbox_make_partitions(now() + interval '2 days');
`

// untended are hand-broken databases: what was done to the tended one, which rule alone finds it, and what a repair says.
var untended = []struct {
	rule, saga, step string
	plant            string
	repair           string // "": it is left to people, or to those who are missing
}{
	{"overdue_lane", "1", "a", `DELETE FROM pgsagaz.river_job`, "its lane has a job again"},
	{"overdue_lane", "1", "a", `UPDATE pgsagaz.river_job SET state = 'discarded', finalized_at = now()`, "its lane has a job again"},
	{"overdue_lane", "1", "a", `DELETE FROM pgsagaz.worker`, ""},
	{"overdue_lane", "1", "a", `UPDATE pgsagaz.worker SET definitions = '{order/2}'`, ""},
	{"overdue_command", "1", "", `INSERT INTO pgsagaz.command (saga_id, kind, created_at) VALUES ($1, 'cancel', now() - interval '1 hour')`, "the command cancel has a job again"},
	{"overdue_lease", "1", "a", `UPDATE pgsagaz.lane SET worker = 'who', token = 1`, "taken from worker who"},
	{
		"overdue_lease", "1", "a", `WITH w AS (INSERT INTO pgsagaz.worker (id, host, pid, lock_key, lease, definitions, beat_at) VALUES ('late', '', 1, 2, '100 milliseconds', '{}', now() - interval '1 hour'))
		UPDATE pgsagaz.lane SET worker = 'late', token = 1`, "taken from worker late",
	},
	{"overdue_lease", "", "", `UPDATE pgsagaz.outbox_relay SET lease = '100 milliseconds', beat_at = now() - interval '1 hour'`, "are free"},
	{"overdue_deadline", "1", "", `INSERT INTO pgsagaz.deadline (saga_id, due_at) VALUES ($1, now() - interval '1 hour')`, ""},
	{"overdue_message", "", "", `UPDATE pgsagaz.outbox_cursor SET prev = '3:3:'`, ""},
	{
		"overdue_scheduled", "", "", `WITH m AS (SELECT pgsagaz.publish('t', 'x', p_not_before => now() + interval '1 day') AS id)
		INSERT INTO pgsagaz.outbox_scheduled (due_at, bucket, event_id, topic, routing_key, type, payload, headers) SELECT now() - interval '1 hour', 1, id, 't', 't', 't', 'x', '{}' FROM m`, "",
	},
	{
		"overdue_scheduled", "", "", `INSERT INTO pgsagaz.outbox_direct (slot, leased_until, bucket, event_id, topic, routing_key, type, payload, headers)
		VALUES (0, now() - interval '1 hour', 1, gen_random_uuid(), 't', 't', 't', 'x', '{}')`, "",
	},
	{"overdue_message_without_saga", "9", "", `UPDATE pgsagaz.outbox SET saga_id = $1`, ""},

	// Of the rules of Check, those that a repair is for.
	{"forgotten", "1", "", `DELETE FROM pgsagaz.lane`, "a saga that is running is planned anew"},
	{
		"ended_and_paused", "1", "", `WITH l AS (DELETE FROM pgsagaz.lane),
		s AS (INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, started_at, ended_at) SELECT $1, n, 'do', 1, 'done', 1, now(), now() FROM unnest('{a,b}'::text[]) n)
		UPDATE pgsagaz.saga SET state = 'completed', ended_at = now(), paused_at = now()`, "it has ended, and is not paused",
	},
	{"outbox_bucket_missing", "", "", `DELETE FROM pgsagaz.outbox_bucket WHERE bucket IN (17, 18)`, "has a cursor, at the beginning"},
	{"outbox_cursor_unused", "", "", `INSERT INTO pgsagaz.outbox_cursor (prev) VALUES ('3:3:')`, "is gone"},
	{
		"overdue_partition", "", "", `DO $do$ DECLARE p record; BEGIN
			FOR p IN SELECT name FROM pgsagaz.inbox_partition WHERE pgsagaz.inbox_time(lower) > now() LOOP
				EXECUTE format('DROP TABLE pgsagaz.%I', p.name);
				DELETE FROM pgsagaz.inbox_partition WHERE name = p.name;
			END LOOP;
			UPDATE pgsagaz.inbox_state SET ceiling = (SELECT upper FROM pgsagaz.inbox_partition ORDER BY upper DESC LIMIT 1);
		END $do$`, "the inbox has",
	},
}

// TestHandBrokenDatabases breaks one thing, and has exactly one rule find it. Where it can be repaired, it is, by whoever is
// written down; then nothing is found any more.
func TestHandBrokenDatabases(t *testing.T) {
	t.Parallel()
	const id = "00000000-0000-7000-8000-00000000000"
	pool := sqltest.Empty(t)
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	find := func() (found []sql.Violation) {
		t.Helper()
		for _, look := range []func() ([]sql.Violation, error){
			func() ([]sql.Violation, error) { return sql.Check(t.Context(), pool) },
			func() ([]sql.Violation, error) { return sql.Overdue(t.Context(), pool, 10*time.Minute) },
		} {
			some, err := look()
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, some...)
		}
		return found
	}
	repair := func() []sql.Repaired {
		t.Helper()
		done, err := sql.Repair(t.Context(), pool, sql.RepairOptions{Patience: 10 * time.Minute, Actor: "Ann", Reason: "after the storm"})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	tend := func() {
		t.Helper()
		exec(t, pool, tended)
		exec(t, pool, `UPDATE pgsagaz.outbox_cursor SET prev = pg_current_snapshot()`) // a snapshot sees what committed before it
	}
	tend()
	if found, done := find(), repair(); len(found)+len(done) > 0 {
		t.Fatalf("where all is seen to: %v, %v", found, done)
	}
	shown, repaired := map[string]bool{}, map[string]bool{}
	for _, c := range untended {
		tend()
		saga, args := "", []any(nil)
		if c.saga != "" {
			saga = id + c.saga
			if strings.Contains(c.plant, "$1") {
				args = []any{saga}
			}
		}
		exec(t, pool, c.plant, args...)
		found := find()
		if len(found) == 0 {
			t.Errorf("%s does not find\n%s", c.rule, c.plant)
		}
		for _, v := range found {
			if v.Rule != c.rule || v.SagaID != saga || v.Step != c.step || v.Problem == "" {
				t.Errorf("after\n%s\n%v, want %s of saga %q step %q alone", c.plant, v, c.rule, saga, c.step)
			}
		}
		shown[c.rule] = true

		done := repair()
		if c.repair == "" {
			if len(done) > 0 || !slices.Equal(find(), found) {
				t.Errorf("%s is not for a repair, which did %v, and there is %v", c.rule, done, find())
			}
			continue
		}
		repaired[c.rule] = true
		for _, r := range done {
			if r.Rule != c.rule || r.SagaID != saga || !strings.Contains(r.Did, c.repair) || !strings.HasPrefix(r.String(), c.rule+": ") {
				t.Errorf("after\n%s\nthe repair did %+v", c.plant, r)
			}
		}
		if left := find(); len(done) == 0 || len(left) > 0 {
			t.Errorf("%s was repaired (%v), and there is %v", c.rule, done, left)
		}
		if again := repair(); len(again) > 0 {
			t.Errorf("%s is repaired again: %v", c.rule, again)
		}
		if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.audit u JOIN pgsagaz.audit_answer a ON a.audit_id = u.id
			WHERE u.verb = 'repair' AND u.actor = 'Ann' AND u.reason = 'after the storm' AND u.details ->> 'rule' = $1 AND a.answer = 'obeyed'
			  AND coalesce(u.saga_id::text, '') = $2`, c.rule, saga); n != len(done) {
			t.Errorf("%d of %d repairs of %s stand in the audit", n, len(done), c.rule)
		}
	}
	overdue, err := sql.Checks().ReadDir("queries")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range overdue {
		if name := strings.TrimSuffix(f.Name(), ".sql"); strings.HasPrefix(name, "overdue_") && !shown[name] {
			t.Errorf("no database here is broken so that %s fires", name)
		}
	}
	repairs, err := sql.Repairs().ReadDir("queries")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range repairs {
		if name := strings.TrimSuffix(strings.TrimPrefix(f.Name(), "repair_"), ".sql"); !repaired[name] {
			t.Errorf("no database here is broken so that %s has something to do", f.Name())
		}
	}
}
