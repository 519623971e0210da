package sql_test

import (
	"slices"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestInboxChecks plants, for every rule of the inbox, a row that must not exist, and has the rule find it.
func TestInboxChecks(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	check := func() (rules []string) {
		t.Helper()
		found, err := sql.Check(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range found {
			rules = append(rules, v.Rule)
			if v.SagaID != "" || v.Problem == "" || v.String() != v.Rule+": "+v.Problem {
				t.Errorf("%+v", v)
			}
		}
		return rules
	}
	if found := check(); len(found) > 0 {
		t.Errorf("an inbox that was never used: %v", found)
	}
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now() + interval '2 days')`)
	const dead = `INSERT INTO pgsagaz.inbox_dead (consumer_name, event_id, message_id, source, attempt, source_topic, key, event_type, payload, headers, traceparent, reason, error, attempts, first_at)
		SELECT 'c', $1, '', '', '', '', '', '', '', '{}', '', $2, '', 1, now()`
	exec(t, pool, dead, "01900000-0000-7000-8000-000000000001", "attempts")
	exec(t, pool, `SELECT pgsagaz.inbox_claims('c', '{01900000-0000-7000-8000-000000000001}', '{NULL}', '{""}', '{""}', NULL, NULL, NULL)`)
	exec(t, pool, dead, "01900000-0000-7000-8000-000000000002", "too old") // it could not be taken
	if found := check(); len(found) > 0 {
		t.Errorf("an inbox in order: %v", found)
	}
	for _, c := range []struct{ rule, plant, mend string }{
		{
			"inbox_partitions", `ALTER TABLE pgsagaz.consumer_inbox DETACH PARTITION pgsagaz.consumer_inbox_20200101`,
			`ALTER TABLE pgsagaz.consumer_inbox ATTACH PARTITION pgsagaz.consumer_inbox_20200101 FOR VALUES FROM ('016f5e66-e800-0000-0000-000000000000')
			 TO ('` + query[string](t, pool, `SELECT upper::text FROM pgsagaz.inbox_partition WHERE name = 'consumer_inbox_20200101'`) + `')`,
		},
		{"inbox_partitions", `UPDATE pgsagaz.inbox_state SET ceiling = pgsagaz.inbox_bound(now() + interval '9 days')`, `UPDATE pgsagaz.inbox_state SET ceiling = (SELECT upper FROM pgsagaz.inbox_partition ORDER BY upper DESC LIMIT 1)`},
		{"inbox_partitions", `UPDATE pgsagaz.inbox_partition SET name = 'x' WHERE name = 'consumer_inbox_20200101'`, `UPDATE pgsagaz.inbox_partition SET name = 'consumer_inbox_20200101' WHERE name = 'x'`},
		{"inbox_dead_not_taken", `DELETE FROM pgsagaz.consumer_inbox`, `DELETE FROM pgsagaz.inbox_dead`},
	} {
		exec(t, pool, c.plant)
		found := check()
		if !slices.Contains(found, c.rule) {
			t.Errorf("%s does not find what %s did: %v", c.rule, c.plant, found)
		}
		exec(t, pool, c.mend)
		if found := check(); len(found) > 0 {
			t.Errorf("%s was mended: %v", c.rule, found)
		}
	}
}
