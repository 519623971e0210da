package sql_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestEveryQueryHasAVariable: a file that nobody embeds is a statement that nobody sends.
func TestEveryQueryHasAVariable(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	embedded := map[string]string{} // file -> variable
	for _, source := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if ok && spec.Doc != nil {
				for _, c := range spec.Doc.List {
					if name, ok := strings.CutPrefix(c.Text, "//go:embed queries/"); ok {
						name = "queries/" + name
						if embedded[name] != "" {
							t.Errorf("%s is embedded twice", name)
						}
						embedded[name] = spec.Names[0].Name
					}
				}
			}
			return true
		})
	}
	files, err := filepath.Glob("queries/*.sql")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if rule := regexp.MustCompile(`^(check|overdue|repair)_`); rule.MatchString(filepath.Base(f)) {
			continue
		}
		variable, ok := embedded[f]
		if !ok {
			t.Errorf("no variable embeds %s", f)
			continue
		}
		// command_take.sql is CommandTake, and migrate_ground.sql may stay inside the package.
		if want := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(f), ".sql"), "_", ""); !strings.EqualFold(variable, want) {
			t.Errorf("%s is embedded into %s", f, variable)
		}
	}
}

// TestEveryStatementPrepares proves names, types and grammar of each without running it.
func TestEveryStatementPrepares(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	files, err := filepath.Glob("queries/*.sql")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	exec(t, conn, sql.KitClock)
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		switch filepath.Base(f) {
		case "migrate_ground.sql": // several statements, made to be run again
			exec(t, conn, string(body))
			continue
		case "kit_clock.sql": // was run before
			continue
		}
		if _, err := conn.Conn().Prepare(t.Context(), "", string(body)); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// world is one saga in each state, as the engine leaves them: no check has anything to say. Step a comes
// first, then b; c comes after b, is optional and has no undo.
const world = `
ALTER TABLE pgsagaz.audit DISABLE TRIGGER USER; -- which refuse it
ALTER TABLE pgsagaz.audit_answer DISABLE TRIGGER USER;
TRUNCATE pgsagaz.audit, pgsagaz.audit_answer;
SELECT pgsagaz.archive_partition((now() AT TIME ZONE 'UTC')::date);
TRUNCATE pgsagaz.schedule, pgsagaz.limit_line, pgsagaz.limit_place, pgsagaz.archive, pgsagaz.definition, pgsagaz.saga, pgsagaz.lane, pgsagaz.step, pgsagaz.command, pgsagaz.child, pgsagaz.signal,
	pgsagaz.outbox, pgsagaz.outbox_stuck, pgsagaz.outbox_dead, pgsagaz.outbox_bucket, pgsagaz.outbox_cursor;
INSERT INTO pgsagaz.outbox_cursor (id, prev) OVERRIDING SYSTEM VALUE VALUES (1, '3:3:');
INSERT INTO pgsagaz.outbox_bucket (bucket, cursor_id) SELECT g, 1 FROM generate_series(0, 255) g;
SELECT pgsagaz.publish('t', 'x', 'k');
INSERT INTO pgsagaz.outbox_stuck SELECT * FROM pgsagaz.outbox;
INSERT INTO pgsagaz.outbox_dead SELECT o.*, 5, 'no', now(), now(), true FROM pgsagaz.outbox o;
INSERT INTO pgsagaz.definition (name, version, registered_at, graph) VALUES ('order', 1, now() - interval '1 hour', '{"steps": [
	{"name": "a", "undo": true}, {"name": "b", "after": ["a"], "undo": true, "signal": "go"}, {"name": "c", "after": ["b"], "optional": true, "kind": "tx"}]}');
INSERT INTO pgsagaz.saga (id, name, version, state, input, cause, ended_at) VALUES
	('00000000-0000-7000-8000-000000000001', 'order', 1, 'running', '{}', NULL, NULL),
	('00000000-0000-7000-8000-000000000002', 'order', 1, 'completed', '{}', NULL, now()),
	('00000000-0000-7000-8000-000000000003', 'order', 1, 'compensated', '{}', '{}', now()),
	('00000000-0000-7000-8000-000000000004', 'order', 1, 'stuck', '{}', '{}', NULL);
INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, error, started_at, ended_at)
	SELECT ('00000000-0000-7000-8000-00000000000' || saga)::uuid, step, direction::pgsagaz.direction, 1, outcome::pgsagaz.outcome, 1, 1,
	       CASE outcome WHEN 'failed' THEN 'no' END, now(), now() + at * interval '1 second'
	FROM (VALUES (1, 'a', 'do', 'done', 1),
	             (2, 'a', 'do', 'done', 1), (2, 'b', 'do', 'done', 2), (2, 'c', 'do', 'failed', 3),
	             (3, 'a', 'do', 'done', 1), (3, 'b', 'do', 'done', 2), (3, 'b', 'undo', 'done', 3), (3, 'a', 'undo', 'done', 4),
	             (4, 'a', 'do', 'done', 1), (4, 'b', 'do', 'failed', 2)) v(saga, step, direction, outcome, at);
INSERT INTO pgsagaz.lane (saga_id, step, direction, queue, worker, token, run_at) VALUES
	('00000000-0000-7000-8000-000000000001', 'b', 'do', 'default', 'w', 1, now()),
	('00000000-0000-7000-8000-000000000004', 'a', 'undo', 'default', NULL, NULL, 'infinity');
`

// TestChecks plants, for every rule, a row that must not exist into that world, and has the rule find it.
// Without a case here a rule may be one that never fires.
func TestChecks(t *testing.T) {
	t.Parallel()
	const id = "00000000-0000-7000-8000-00000000000"
	cases := []struct {
		rule, saga, step string
		plant            string
		also             []string // rules that the same row breaks
	}{
		{
			rule: "archived_and_live", saga: "2",
			plant: `INSERT INTO pgsagaz.archive (id, name, version, state, tags, input, created_at, ended_at, steps, attempts, signals, children)
			        SELECT id, name, version, state, tags, input, created_at, ended_at, '[]', '[]', '[]', '[]' FROM pgsagaz.saga WHERE id = $1`,
		},
		{
			rule: "limit_exceeded",
			plant: `INSERT INTO pgsagaz.limit_line (name, key, concurrency) VALUES ('bank', 'eu', 1);
			        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane, at, token, most)
			        SELECT 'bank', 'eu', l.saga_id, l.step, l.direction, l.id, now(), l.token, 1 FROM pgsagaz.lane l WHERE l.token IS NOT NULL;
			        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane, at, token, most)
			        SELECT 'bank', 'eu', saga_id, '', 'do', lane, at, token, most FROM pgsagaz.limit_place`,
		},
		{
			rule: "limit_split", saga: "1", step: "b",
			plant: `WITH line AS (INSERT INTO pgsagaz.limit_line (name, key, concurrency) VALUES ('bank', 'eu', 1), ('merchant', '', 1))
			        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane, seq, at, most, lines)
			        SELECT v.name, v.key, l.saga_id, l.step, l.direction, l.id, 1, v.at, 1, '{bank eu,merchant }'
			        FROM pgsagaz.lane l, (VALUES ('bank', 'eu', now()), ('merchant', '', NULL)) v(name, key, at) WHERE l.saga_id = $1`,
		},
		{
			rule: "limit_line_unattended", saga: "1", step: "b",
			plant: `INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane) SELECT 'bank', '', saga_id, step, 'do', id FROM pgsagaz.lane WHERE saga_id = $1`,
		},
		{
			rule: "schedule_slot_again",
			plant: `INSERT INTO pgsagaz.schedule (name, cron, zone, saga, input, tags, catch_up, most, grace, last_at, next_at)
			        VALUES ('hourly', '@hourly', 'UTC', 'order', '{}', '{}', 'skip', 1, '1 minute', now(), now())`,
		},
		{
			rule: "child_half_started", saga: "1", step: "b",
			plant: `INSERT INTO pgsagaz.child (parent_id, step, item, name, input, state) VALUES ($1, 'b', 0, 'order', '{}', 'running')`,
		},
		{
			rule: "limit_exceeded",
			plant: `INSERT INTO pgsagaz.limit_line (name, key, concurrency) VALUES ('bank', 'eu', 1);
			        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane, at, token, most)
			        SELECT 'bank', 'eu', l.saga_id, l.step, l.direction, l.id, now(), l.token, 1 FROM pgsagaz.lane l WHERE l.token IS NOT NULL;
			        INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane, at, token, most)
			        SELECT 'bank', 'eu', saga_id, '', 'do', lane, at, token, most FROM pgsagaz.limit_place`,
		},
		{
			rule: "limit_line_unattended", saga: "1", step: "b",
			plant: `INSERT INTO pgsagaz.limit_place (name, key, saga_id, step, direction, lane) SELECT 'bank', '', saga_id, step, 'do', id FROM pgsagaz.lane WHERE saga_id = $1`,
		},
		{
			rule: "schedule_slot_again",
			plant: `INSERT INTO pgsagaz.schedule (name, cron, zone, saga, input, tags, catch_up, most, grace, last_at, next_at)
			        VALUES ('hourly', '@hourly', 'UTC', 'order', '{}', '{}', 'skip', 1, '1 minute', now(), now())`,
		},
		{
			rule: "child_half_started", saga: "1", step: "b",
			plant: `INSERT INTO pgsagaz.child (parent_id, step, item, name, input, saga_id, state) VALUES ($1, 'b', 0, 'order', '{}', '00000000-0000-7000-8000-000000000002', 'running')`,
		},
		{
			rule: "pivot_taken_back", saga: "3", step: "a", also: []string{"compensated_incomplete"},
			plant: `UPDATE pgsagaz.definition SET graph = jsonb_set(graph, '{steps,0,pivot}', 'true') WHERE $1::uuid IS NOT NULL`,
		},
		{
			rule: "signal_taken_twice", saga: "2", step: "b",
			plant: `INSERT INTO pgsagaz.signal (saga_id, name, payload, sent_at, step) VALUES ($1, 'go', '1', now(), 'b'), ($1, 'go', '2', now(), 'b')`,
		},
		{rule: "signal_taken_twice", saga: "2", step: "a", plant: `INSERT INTO pgsagaz.signal (saga_id, name, payload, sent_at, step) VALUES ($1, 'go', '1', now(), 'a')`},
		{
			rule: "wait_for_nothing", saga: "1", step: "b",
			plant: `UPDATE pgsagaz.lane SET worker = NULL, token = NULL, waits = 'child', run_at = 'infinity' WHERE saga_id = $1`,
		},
		{
			rule: "wait_for_nothing", saga: "1", step: "b",
			plant: `WITH s AS (INSERT INTO pgsagaz.signal (saga_id, name, payload, sent_at) VALUES ($1, 'go', '1', now()))
			        UPDATE pgsagaz.lane SET worker = NULL, token = NULL, waits = 'signal', run_at = 'infinity' WHERE saga_id = $1`,
		},
		{rule: "claim_of_an_ended_step", saga: "1", step: "a", plant: `UPDATE pgsagaz.lane SET step = 'a' WHERE saga_id = $1`},
		{rule: "compensated_incomplete", saga: "3", step: "a", plant: `DELETE FROM pgsagaz.step WHERE saga_id = $1 AND step = 'a' AND direction = 'undo'`},
		{
			rule: "compensated_incomplete", saga: "3", step: "b", // a result that came after its undo
			plant: `INSERT INTO pgsagaz.step SELECT saga_id, step, direction, 2, outcome, in_doubt, attempt, token, worker, result, error, note, started_at, ended_at
			        FROM pgsagaz.step WHERE saga_id = $1 AND step = 'b' AND direction = 'do'`,
		},
		{
			rule: "compensated_incomplete", saga: "3", step: "b", // in doubt, and never resolved
			plant: `WITH gone AS (DELETE FROM pgsagaz.step WHERE saga_id = $1 AND step = 'b' AND direction = 'undo')
			        UPDATE pgsagaz.step SET outcome = 'failed', error = 'no', in_doubt = true WHERE saga_id = $1 AND step = 'b' AND direction = 'do'`,
		},
		{rule: "completed_incomplete", saga: "2", step: "b", plant: `UPDATE pgsagaz.step SET outcome = 'failed', error = 'no' WHERE saga_id = $1 AND step = 'b'`},
		{rule: "completed_incomplete", saga: "2", step: "c", plant: `DELETE FROM pgsagaz.step WHERE saga_id = $1 AND step = 'c'`},
		{
			rule: "completed_incomplete", saga: "2", step: "b",
			plant: `INSERT INTO pgsagaz.step SELECT saga_id, step, 'undo', 1, outcome, in_doubt, attempt, token, worker, result, error, note, started_at, ended_at
			        FROM pgsagaz.step WHERE saga_id = $1 AND step = 'b'`,
		},
		{rule: "done_before_predecessor", saga: "2", step: "b", plant: `UPDATE pgsagaz.step SET ended_at = ended_at - interval '1 minute' WHERE saga_id = $1 AND step = 'b'`},
		{
			rule: "done_before_predecessor", saga: "1", step: "c",
			plant: `INSERT INTO pgsagaz.step SELECT saga_id, 'c', direction, 1, outcome, in_doubt, attempt, token, worker, result, error, note, started_at, ended_at
			        FROM pgsagaz.step WHERE saga_id = $1 AND step = 'a'`,
		},
		{rule: "ended_with_lane", saga: "2", step: "z", plant: `INSERT INTO pgsagaz.lane (saga_id, step, queue) VALUES ($1, 'z', 'default')`},
		{rule: "forgotten", saga: "1", plant: `DELETE FROM pgsagaz.lane WHERE saga_id = $1`},
		{rule: "half_held_lane", saga: "1", step: "b", plant: `UPDATE pgsagaz.lane SET token = NULL WHERE saga_id = $1`},
		{rule: "half_held_lane", saga: "1", step: "b", plant: `UPDATE pgsagaz.lane SET worker = NULL WHERE saga_id = $1`},
		{rule: "lane_without_saga", saga: "9", step: "b", plant: `INSERT INTO pgsagaz.lane (saga_id, step, queue) VALUES ($1, 'b', 'default')`},
		{rule: "lane_without_saga", saga: "9", plant: `INSERT INTO pgsagaz.command (saga_id, kind) VALUES ($1, 'cancel')`},
		{
			rule: "lane_without_saga", saga: "9", step: "b",
			plant: `INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, started_at, ended_at) VALUES ($1, 'b', 'do', 1, 'done', 1, now(), now())`,
		},
		{
			rule: "audit_unanswered", saga: "1", step: "b",
			plant: `INSERT INTO pgsagaz.audit (saga_id, saga, verb, step, actor) VALUES ($1, 'order', 'skip', 'b', 'Ann')`,
		},
		{
			rule: "audit_unanswered", saga: "1",
			plant: `WITH asked AS (INSERT INTO pgsagaz.audit (saga_id, saga, verb, actor) VALUES ($1, 'order', 'cancel', 'Ann') RETURNING id),
			             answered AS (INSERT INTO pgsagaz.audit_answer (audit_id, answer) SELECT id, 'obeyed' FROM asked)
			        INSERT INTO pgsagaz.command (saga_id, kind, audit_id) SELECT $1, 'cancel', id FROM asked`,
		},
		{rule: "ended_and_paused", saga: "2", plant: `UPDATE pgsagaz.saga SET paused_at = now() WHERE id = $1`},
		{rule: "outbox_bucket_missing", plant: `DELETE FROM pgsagaz.outbox_bucket WHERE bucket = 17`},
		{rule: "outbox_cursor_ahead", plant: `UPDATE pgsagaz.outbox_cursor SET prev = '9000000000:9000000000:'`},
		{rule: "outbox_cursor_ahead", plant: `UPDATE pgsagaz.outbox_cursor SET cur = '3:9000000000:'`},
		{rule: "outbox_cursor_unused", plant: `INSERT INTO pgsagaz.outbox_cursor (prev) VALUES ('3:3:')`},
		{rule: "outbox_dead_and_alive", plant: `UPDATE pgsagaz.outbox_dead SET holds = false`},
		{rule: "outbox_dead_and_alive", plant: `UPDATE pgsagaz.outbox_stuck SET done = true`},
		{rule: "outbox_event_behind", plant: `UPDATE pgsagaz.outbox_cursor SET prev = pg_current_snapshot(), moved_at = now() - interval '1 hour'`},
		{rule: "outbox_malformed", plant: `UPDATE pgsagaz.outbox SET topic = ''`},
		{rule: "outbox_malformed", plant: `UPDATE pgsagaz.outbox SET headers = '[]'`},
		{rule: "outbox_wrong_bucket", plant: `UPDATE pgsagaz.outbox SET bucket = (bucket + 1) % 256`},
		{rule: "step_says_nonsense", saga: "1", step: "a", plant: `UPDATE pgsagaz.step SET error = 'no' WHERE saga_id = $1 AND step = 'a'`},
		{rule: "stuck_without_reason", saga: "4", plant: `UPDATE pgsagaz.lane SET run_at = now() WHERE saga_id = $1`},
		{rule: "tx_step_in_doubt", saga: "2", step: "c", plant: `UPDATE pgsagaz.step SET in_doubt = true WHERE saga_id = $1 AND step = 'c'`},
		{rule: "two_lanes_one_step", saga: "1", step: "b", plant: `INSERT INTO pgsagaz.lane (saga_id, step, queue) VALUES ($1, 'b', 'default')`},
		{rule: "undone_before_dependent", saga: "3", step: "a", plant: `UPDATE pgsagaz.step SET ended_at = ended_at - interval '3 seconds' WHERE saga_id = $1 AND step = 'a' AND direction = 'undo'`},
		{
			rule: "undone_without_done", saga: "3", step: "c",
			plant: `INSERT INTO pgsagaz.step SELECT saga_id, 'c', direction, 1, outcome, in_doubt, attempt, token, worker, result, error, note, started_at, ended_at
			        FROM pgsagaz.step WHERE saga_id = $1 AND step = 'b' AND direction = 'undo'`,
		},
	}

	pool := sqltest.Empty(t)
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	check := func() (found []sql.Violation) {
		t.Helper()
		found, err := sql.Check(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := check(); len(found) > 0 {
		t.Errorf("a new database: %v", found)
	}
	exec(t, pool, world)
	if found := check(); len(found) > 0 {
		t.Fatalf("a world in order: %v", found)
	}

	shown := map[string]bool{}
	for _, c := range cases {
		exec(t, pool, world)
		saga, args := "", []any(nil)
		if c.saga != "" {
			saga, args = id+c.saga, []any{id + c.saga}
		}
		exec(t, pool, c.plant, args...)
		hit := false
		for _, v := range check() {
			if v.Rule == c.rule && v.SagaID == saga && v.Step == c.step && v.Problem != "" {
				hit = true
			} else if v.Rule != c.rule && !slices.Contains(c.also, v.Rule) {
				t.Errorf("the case of %s fires: %v", c.rule, v)
			}
		}
		if !hit {
			t.Errorf("%s does not find step %q of saga %s after\n%s\nbut %v", c.rule, c.step, c.saga, c.plant, check())
		}
		shown[c.rule] = true
	}

	// A graph that was replaced after the saga had ended does not judge it.
	exec(t, pool, world)
	exec(t, pool, "UPDATE pgsagaz.step SET in_doubt = true WHERE saga_id = $1 AND step = 'c'", id+"2")
	exec(t, pool, "UPDATE pgsagaz.definition SET registered_at = now() + interval '1 second'")
	if found := check(); len(found) > 0 {
		t.Errorf("a saga that ended on another graph: %v", found)
	}

	rules, err := sql.Checks().ReadDir("queries")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if strings.HasPrefix(r.Name(), "overdue_") {
			continue // see TestHandBrokenDatabases
		}
		if name := strings.TrimSuffix(strings.TrimPrefix(r.Name(), "check_"), ".sql"); !shown[name] && !strings.HasPrefix(name, "inbox_") { // those have a test of their own
			t.Errorf("no case shows that %s fires", r.Name())
		}
	}
}
