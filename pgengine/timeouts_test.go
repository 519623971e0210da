package pgengine_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// What the user's own statement_timeout or lock_timeout cuts off while somebody holds a saga's lock is nobody's failed attempt: what was done is
// recorded once the lock is free, and not done again.
func TestATimeLimitOfTheUsersWhileASagaIsLocked(t *testing.T) {
	for _, setting := range []string{"statement_timeout", "lock_timeout"} {
		for _, at := range []string{"do", "commit", "undo", "tx"} {
			t.Run(fmt.Sprint(setting, " ", at), func(t *testing.T) {
				t.Parallel()
				ours := sqltest.New(t)
				config := ours.Config()
				config.ConnConfig.RuntimeParams[setting] = "200"
				pool, err := pgxpool.NewWithConfig(t.Context(), config)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(pool.Close)
				c := &calls{}
				inside, locked := make(chan bool, 10), make(chan bool)
				call := func(what string) error {
					c.add(what)
					if what == at {
						inside <- true
						<-locked
					}
					return nil
				}
				once := pgengine.Retry{MaxAttempts: 1}
				a := act[string]{
					Name: "a", Retry: once, UndoRetry: once,
					Do:   func(context.Context, faultCall) (string, error) { return "", call("do") },
					Undo: func(context.Context, faultCall, string) error { return call("undo") },
				}
				if at != "do" { // there it is settled in company
					a.Commit = func(context.Context, pgx.Tx, faultCall, string) error { return call("commit") }
				}
				b := txs[string]{Name: "b", After: steps(a), Retry: once, Do: func(context.Context, pgx.Tx, faultCall) (string, error) {
					if at == "undo" {
						return "", pgengine.Terminal(errNo)
					}
					return "", call("tx")
				}}
				warned := make(chan bool, 100)
				e := engineLogging(t, pool, slog.New(slog.NewTextHandler(warning(warned), &slog.HandlerOptions{Level: slog.LevelWarn})), pgengine.Saga[fault]{Version: 1, Steps: steps(a, b)})
				atWork(t, e, jobs.Config{})
				id := start(t, e, fault{}, nil).ID
				<-inside
				holder, err := ours.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := holder.Exec(t.Context(), `SELECT FROM pgsagaz.saga WHERE id = $1 FOR UPDATE`, id); err != nil {
					t.Fatal(err)
				}
				close(locked)
				<-warned
				if err := holder.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				s := atRest(t, e, id)
				want, called := pgengine.Completed, "do commit tx"
				switch at {
				case "do":
					called = "do tx"
				case "undo":
					want, called = pgengine.Compensated, "do commit undo"
				}
				if s.State != want || at != "tx" && at != "commit" && c.String() != called || len(s.Attempts) > 0 {
					t.Errorf("%s after %q, cause %v, attempts %+v", s.State, c, s.Cause, s.Attempts)
				}
			})
		}
	}
}

// warning is told of each line that a logger writes.
type warning chan bool

func (w warning) Write(line []byte) (int, error) {
	select {
	case w <- true:
	default:
	}
	return len(line), nil
}
