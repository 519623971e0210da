package demo

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

func options() Options {
	return Options{Orders: 30, FailRate: 0.3, Workers: 2, Faults: UsualFaults, Logger: slog.New(slog.DiscardHandler)}
}

func wrong(rep *Report) string {
	var b bytes.Buffer
	rep.Print(&b)
	return b.String()
}

func TestRun(t *testing.T) {
	url := sqltest.URL(t)
	var screen bytes.Buffer
	o := options()
	o.Screen = &screen
	for range 2 { // the second one meets what the first one left
		rep, err := Run(t.Context(), url, o)
		if err != nil {
			t.Fatal(err)
		}
		if !rep.OK || rep.Completed+rep.Compensated != o.Orders || rep.Compensated < 9 || rep.Doomed != 9 {
			t.Fatal(wrong(rep))
		}
	}
	if !strings.Contains(screen.String(), "30 orders") {
		t.Errorf("the screen shows %q", screen.String())
	}
}

// All fail at once: more transactions turn back together than the pool has connections.
func TestRunOfNothingButFailures(t *testing.T) {
	o := options()
	o.Orders, o.FailRate, o.Workers = 200, 1, 1
	rep, err := Run(t.Context(), sqltest.URL(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OK || rep.Compensated != o.Orders {
		t.Fatal(wrong(rep))
	}
}

// The audit is worth something if it finds what somebody has planted.
func TestAuditFinds(t *testing.T) {
	const money, stock, rows = "the money", "the stock", "no row"
	const whole, taken, could = "each completed", "each compensated", "no order that could"
	const completed = `(SELECT o.id FROM demo.orders o JOIN pgsagaz.saga s ON s.id = o.saga_id WHERE s.state = 'completed' LIMIT 1)`
	const completedKey = `(SELECT o.saga_id || '/charge' FROM demo.orders o JOIN pgsagaz.saga s ON s.id = o.saga_id WHERE s.state = 'completed' LIMIT 1)`
	const backKey = `(SELECT o.saga_id || '/charge' FROM demo.orders o JOIN pgsagaz.saga s ON s.id = o.saga_id WHERE s.state = 'compensated' LIMIT 1)`
	for name, c := range map[string]struct {
		tamper string
		rules  []string
	}{
		"stock stolen":      {`UPDATE demo.stock SET on_shelf = on_shelf - 1 WHERE sku = (SELECT min(sku) FROM demo.stock WHERE on_shelf > 0)`, []string{stock}},
		"charged twice":     {`INSERT INTO bank.entry (key, cents) VALUES (` + completedKey + `, 5)`, []string{money, whole}},
		"refunded":          {`UPDATE bank.charge SET state = 'refunded' WHERE key = ` + completedKey, []string{whole}},
		"parcel lost":       {`DELETE FROM demo.parcel WHERE order_id = ` + completed, []string{stock, whole}},
		"payment forgotten": {`DELETE FROM demo.payment WHERE order_id = ` + completed, []string{money}},
		"kept after all":    {`INSERT INTO bank.entry (key, cents) VALUES (` + backKey + `, 5)`, []string{money, taken}},
		"impossible":        {`UPDATE demo.orders SET doomed = 'for the test' WHERE id = ` + completed, []string{could}},
		"not ended":         {`ALTER TABLE pgsagaz.saga DISABLE TRIGGER saga_transition; UPDATE pgsagaz.saga SET state = 'running', ended_at = NULL, cause = NULL WHERE id = (SELECT max(id::text)::uuid FROM pgsagaz.saga WHERE state = 'completed')`, []string{"every order", rows, money}},
		"order without saga": {`UPDATE demo.orders SET saga_id = '00000000-0000-7000-8000-000000000000' WHERE id = ` + completed,
			[]string{"every order"}},
	} {
		t.Run(name, func(t *testing.T) {
			pool := sqltest.Empty(t) // Run migrates it; nobody minds what is left in it
			o := options()
			o.Orders, o.FailRate, o.Faults = 12, 0.34, Faults{}
			o.beforeAudit = func(ctx context.Context, pool *pgxpool.Pool) error {
				tag, err := pool.Exec(ctx, c.tamper)
				if err == nil && tag.RowsAffected() == 0 {
					t.Error("nothing was tampered with")
				}
				return err
			}
			rep, err := Run(t.Context(), pool.Config().ConnString(), o)
			if err != nil {
				t.Fatal(err)
			}
			if rep.OK {
				t.Fatal("the audit found nothing")
			}
			for _, rule := range c.rules {
				found := false
				for _, f := range rep.Audit {
					found = found || strings.HasPrefix(f.Rule, rule) && !f.OK && len(f.Wrong) > 0
				}
				if !found {
					t.Errorf("the rule %q found nothing:\n%s", rule, wrong(rep))
				}
			}
		})
	}
}

func TestRunNeedsADatabase(t *testing.T) {
	if _, err := Run(t.Context(), "postgres://nobody@127.0.0.1:1/nowhere?connect_timeout=1", options()); err == nil {
		t.Error("it ran")
	}
}

func TestDefinition(t *testing.T) {
	if _, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{Fulfil(&BankClient{}, Mail{})}, NoWake: true}); err != nil {
		t.Error(err)
	}
}

func TestScreen(t *testing.T) {
	var b bytes.Buffer
	s := newScreen(&b, true)
	s.status("bar", "one")
	s.event("something")
	s.status("bar", "two")
	const want = "bar\none\n" + "\x1b[2A\x1b[J" + "something\nbar\none\n" + "\x1b[2A\x1b[J" + "bar\ntwo\n"
	if got := strings.NewReplacer("\x1b[?7l", "", "\x1b[?7h", "").Replace(b.String()); got != want {
		t.Errorf("drew %q, want %q", got, want)
	}
}
