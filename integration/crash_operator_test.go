//go:build unix && failpoint

package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// asking is what an operator asks of a saga.
type asking func(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error

func pausing(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error {
	return e.Pause(ctx, tx, id, by)
}

func resuming(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error {
	return e.Resume(ctx, tx, id, by)
}

func skipping(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error {
	return e.Skip(ctx, tx, id, "label", by)
}

func abandoning(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error {
	return e.Abandon(ctx, tx, id, by)
}

// A worker dies before or after the commit in which it does what an operator asked for, or begins what he restarted. Another one
// does it, once, and the audit has one answer.
func TestCrashWhileObeyingAnOperator(t *testing.T) {
	t.Parallel()
	undoFails := map[string]string{"ship": terminal, "undo label": lost} // label's undo has its effect, and is tried again and again
	paused := func(s pgengine.Status) bool { return s.PausedAt != nil }
	ended := func(s pgengine.Status) bool { return s.State.Ended() }
	failing := func(s pgengine.Status) bool { return len(attempts(s, "label")) > 0 }
	for _, test := range []struct {
		verb   string
		faults map[string]string
		until  func(pgengine.Status) bool // what a worker brings about beforehand
		hold   bool                       // it is paused then, so that its step waits
		ask    asking
		done   func(pgengine.Status) bool // what comes of it
		then   asking                     // what the saga needs to end
		end    pgengine.State
	}{
		{verb: "pause", faults: undoFails, until: failing, ask: pausing, done: paused, end: pgengine.Compensated,
			then: func(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error {
				return errors.Join(e.Resume(ctx, tx, id, by), e.Abandon(ctx, tx, id, by))
			}},
		{verb: "resume", faults: undoFails, until: failing, hold: true, ask: resuming, then: abandoning, end: pgengine.Compensated,
			done: func(s pgengine.Status) bool { return s.PausedAt == nil }},
		{verb: "skip", faults: undoFails, until: failing, hold: true, ask: skipping, done: paused, then: resuming, end: pgengine.Compensated},
		{verb: "abandon", faults: undoFails, until: failing, ask: abandoning, done: ended, end: pgengine.Compensated},
		{verb: "restart", until: ended, done: ended, end: pgengine.Completed,
			ask: func(ctx context.Context, e *pgengine.Engine, tx pgx.Tx, id string, by pgengine.By) error {
				_, err := e.Restart(ctx, tx, id, []string{"reserve"}, by)
				return err
			}},
	} {
		points := []string{"obey.before", "obey.after"}
		if test.verb == "restart" { // it leaves nothing to obey, and a lane to take
			points = []string{"take.before", "take.after"}
		}
		for _, point := range points {
			t.Run(test.verb+"_"+point, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				ann := pgengine.By{Actor: "ann", Reason: "a test says so"}
				ask := func(what asking, id string, by pgengine.By) {
					t.Helper()
					if err := sql.InTx(t.Context(), w.pool, func(tx pgx.Tx) error { return what(t.Context(), w.engine, tx, id, by) }); err != nil {
						t.Fatal(err)
					}
				}
				get := func(id string) pgengine.Status {
					t.Helper()
					s, err := w.engine.Get(t.Context(), id)
					if err != nil {
						t.Fatal(err)
					}
					return s
				}
				id := w.start(Order{Faults: test.faults})
				healthy := w.worker(workerOptions{Lease: time.Second})
				eventually(t, patience, "what comes before", func() bool { return test.until(get(id)) })
				if test.hold {
					ask(pausing, id, pgengine.By{Actor: "bob"})
					eventually(t, patience, "a pause", func() bool { return paused(get(id)) })
				}
				healthy.term()
				healthy.wait(t)
				ask(test.ask, id, ann)
				if test.verb == "restart" {
					id = get(id).RestartedAs
				}
				victim := w.launch(workerOptions{Lease: time.Second, Failpoint: point, Hit: 1})
				if sig := victim.wait(t); sig != syscall.SIGKILL {
					t.Fatalf("the worker ended with %v: %s was not reached", victim.cmd.ProcessState, point)
				}
				answers := func() (all []string) {
					for _, a := range get(id).Audit {
						if a.Actor == "ann" {
							all = append(all, strings.TrimSpace(a.Verb+" "+a.Answer+" "+a.Why))
						}
					}
					return all
				}
				// Before its commit nothing has come of it; a restart is asked for and done in one.
				want := test.verb + " obeyed"
				if point == "obey.before" && test.verb != "restart" {
					want = test.verb + " waits"
				}
				if got := fmt.Sprint(answers()); got != "["+want+"]" {
					t.Errorf("when the worker has died the audit says %s, want %s", got, want)
				}
				w.worker(workerOptions{Lease: time.Second})
				eventually(t, patience, "what was asked for", func() bool {
					return test.done(get(id)) && fmt.Sprint(answers()) == "["+test.verb+" obeyed]"
				})
				if test.then != nil {
					ask(test.then, id, pgengine.By{Actor: "bob"})
				}
				if s := w.wait(id); s.State != test.end {
					t.Errorf("it is %s, want %s", s.State, test.end)
				}
				violations, err := sql.Check(t.Context(), w.pool)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range violations {
					t.Error(v)
				}
			})
		}
	}
}
