package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// fault is the input of the sagas in this file.
type fault struct{ Note string }

func (fault) SagaName() string { return "fault" }

type faultCall = pgengine.Call[fault]

// logged keeps what an engine and a worker log.
type logged struct {
	mu    *sync.Mutex
	lines *[]string
	attrs string
}

func newLogged() logged { return logged{mu: &sync.Mutex{}, lines: &[]string{}} }

// Enabled, Handle, WithAttrs and WithGroup are a slog.Handler's.
func (l logged) Enabled(context.Context, slog.Level) bool { return true }

func (l logged) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message + l.attrs
	r.Attrs(func(a slog.Attr) bool { line += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, line)
	return nil
}

func (l logged) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		l.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return l
}

func (l logged) WithGroup(string) slog.Handler { return l }

// with counts the lines that hold all words.
func (l logged) with(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range *l.lines {
		has := true
		for _, w := range words {
			has = has && strings.Contains(line, w)
		}
		if has {
			n++
		}
	}
	return n
}

// calls counts what was called, in the order of the first calls.
type calls struct {
	mu   sync.Mutex
	list []string
}

func (c *calls) add(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, what)
	n := 0
	for _, w := range c.list {
		if w == what {
			n++
		}
	}
	return n
}

func (c *calls) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.list, " ")
}

var (
	quick = pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond, Max: time.Millisecond}
	once  = pgengine.NoRetry
	errNo = errors.New("no luck")
)

type unmarshallable struct{ C chan int }

type (
	act[R any] = pgengine.Activity[fault, R]
	txs[R any] = pgengine.TxStep[fault, R]
)

// nilError is an error whose Error panics when it is nil, as those of careless libraries do.
type nilError struct{ what string }

func (e *nilError) Error() string { return e.what }

// run is one saga of steps, on a worker of its own.
type run struct {
	*testing.T
	pool  *pgxpool.Pool
	log   logged
	calls *calls
}

func (r run) saga(steps ...pgengine.Step[fault]) pgengine.Status {
	return r.sagaWith(pgengine.Config{}, 0, steps...)
}

func (r run) sagaWith(cfg pgengine.Config, timeout time.Duration, steps ...pgengine.Step[fault]) pgengine.Status {
	r.Helper()
	e := r.engine(cfg, timeout, steps...)
	atWork(r.T, e, jobs.Config{})
	return atRest(r.T, e, start(r.T, e, fault{}, nil).ID)
}

func (r run) engine(cfg pgengine.Config, timeout time.Duration, steps ...pgengine.Step[fault]) *pgengine.Engine {
	r.Helper()
	cfg.Sagas, cfg.Logger = []pgengine.Definition{pgengine.Saga[fault]{Version: 1, Timeout: timeout, Steps: steps}}, slog.New(r.log)
	e, err := pgengine.New(r.pool, cfg)
	if err != nil {
		r.Fatal(err)
	}
	return e
}

// want compares how a saga ended, what was called, and which attempts were recorded, as step/direction/kind.
func (r run) want(s pgengine.Status, state pgengine.State, called string) {
	r.Helper()
	if s.State != state || r.calls.String() != called {
		r.Errorf("the saga is %s after %q, want %s after %q\ncause %+v\nsteps %+v\nattempts %+v", s.State, r.calls, state, called, s.Cause, s.Steps, s.Attempts)
	}
}

// failed wants that step failed with an error of these words, in the log by saga, id and step, and in Get.
func (r run) failed(s pgengine.Status, step string, words ...string) {
	r.Helper()
	if r.log.with(append([]string{"step failed", "saga=fault", "saga_id=" + s.ID, "step=" + step}, words...)...) == 0 {
		r.Errorf("the log does not say that step %s failed with %q:\n%s", step, words, strings.Join(*r.log.lines, "\n"))
	}
	for _, word := range words {
		body, _ := json.Marshal(struct {
			Steps, Attempts any
		}{s.Steps, s.Attempts})
		if text, _ := json.Marshal(word); !strings.Contains(string(body), strings.Trim(string(text), `"`)) {
			r.Errorf("Get does not tell %q: %s", word, body)
		}
	}
}

// first is a TxStep whose undo shows that the saga turned back.
func (r run) first() txs[int] {
	return txs[int]{
		Name: "first",
		Do:   func(context.Context, pgx.Tx, faultCall) (int, error) { return 1, nil },
		Undo: func(context.Context, pgx.Tx, faultCall, int) error { r.calls.add("undo-first"); return nil },
	}
}

func (r run) write(ctx context.Context, tx pgx.Tx, c faultCall) error {
	_, err := tx.Exec(ctx, insertNote, c.SagaID, c.Step)
	return err
}

func (r run) written(s pgengine.Status) int {
	return query[int](r.T, r.pool, "SELECT count(*) FROM note WHERE saga = $1", s.ID)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(r run){
		"TxStep result that does not marshal": func(r run) {
			first := r.first()
			s := r.saga(first, txs[unmarshallable]{Name: "x", After: pgengine.Steps[fault](first), Do: func(ctx context.Context, tx pgx.Tx, c faultCall) (unmarshallable, error) {
				r.calls.add("do")
				return unmarshallable{make(chan int)}, r.write(ctx, tx, c)
			}})
			r.want(s, pgengine.Compensated, "do undo-first")
			r.failed(s, "x", "does not marshal")
			if r.written(s) > 0 {
				r.Error("what it wrote is not rolled back")
			}
		},
		"Activity result that does not marshal": func(r run) {
			s := r.saga(act[unmarshallable]{
				Name: "x",
				Do: func(context.Context, faultCall) (unmarshallable, error) {
					r.calls.add("do")
					return unmarshallable{make(chan int)}, nil
				},
				Undo: func(_ context.Context, c faultCall, _ unmarshallable) error {
					r.calls.add(fmt.Sprint("undo-in-doubt-", c.InDoubt()))
					return nil
				},
			})
			r.want(s, pgengine.Compensated, "do do undo-in-doubt-true")
			r.failed(s, "x", "does not marshal")
		},
		"result over MaxPayload": func(r run) {
			s := r.sagaWith(pgengine.Config{MaxPayload: 100}, 0, txs[string]{Name: "x", Do: func(ctx context.Context, tx pgx.Tx, c faultCall) (string, error) {
				r.calls.add("do")
				return strings.Repeat("x", 200), r.write(ctx, tx, c)
			}})
			r.want(s, pgengine.Compensated, "do")
			r.failed(s, "x", pgengine.ErrTooLarge.Error(), "the limit is 100")
			if r.written(s) > 0 {
				r.Error("what it wrote is not rolled back")
			}
		},
		"Activity result over MaxPayload": func(r run) {
			s := r.sagaWith(pgengine.Config{MaxPayload: 100}, 0, act[string]{
				Name: "x",
				Do: func(context.Context, faultCall) (string, error) {
					r.calls.add("do")
					return strings.Repeat("x", 200), nil
				},
				Undo: func(_ context.Context, c faultCall, got string) error {
					r.calls.add(fmt.Sprint("undo-", len(got)))
					return nil
				},
			})
			r.want(s, pgengine.Compensated, "do do undo-200")
			r.failed(s, "x", pgengine.ErrTooLarge.Error())
		},
		"panics in Do": func(r run) {
			s := r.saga(txs[int]{Name: "x", Retry: pgengine.Retry{MaxAttempts: 5, Initial: time.Millisecond}, Do: func(_ context.Context, _ pgx.Tx, c faultCall) (int, error) {
				switch c.Attempt {
				case 1:
					panic("oh")
				case 2:
					panic(error(nil))
				case 3:
					panic((*nilError)(nil))
				case 4:
					panic((*pgengine.TerminalError)(nil))
				}
				r.calls.add("do")
				return 1, nil
			}})
			r.want(s, pgengine.Completed, "do")
			r.failed(s, "x", "panic: oh")
			if len(s.Attempts) != 4 || r.log.with("step panicked", "saga_id="+s.ID, "step=x", "faults_test.go") != 4 {
				r.Errorf("attempts %+v", s.Attempts)
			}
		},
		"errors that are nil inside": func(r run) {
			s := r.saga(txs[int]{Name: "x", Retry: pgengine.Retry{MaxAttempts: 3, Initial: time.Millisecond}, Do: func(_ context.Context, _ pgx.Tx, c faultCall) (int, error) {
				switch c.Attempt {
				case 1:
					return 0, (*nilError)(nil)
				case 2:
					return 0, (*pgengine.TerminalError)(nil)
				}
				r.calls.add("do")
				return 1, nil
			}})
			r.want(s, pgengine.Completed, "do")
			if len(s.Attempts) != 2 {
				r.Errorf("attempts %+v", s.Attempts)
			}
		},
		"panics in Commit, Lookup and Undo": func(r run) {
			s := r.saga(act[int]{
				Name: "x", Retry: once, UndoRetry: pgengine.Retry{Initial: time.Millisecond},
				Do:     func(context.Context, faultCall) (int, error) { r.calls.add("do"); return 7, nil },
				Commit: func(context.Context, pgx.Tx, faultCall, int) error { r.calls.add("commit"); panic("in commit") },
				Lookup: func(context.Context, faultCall) (int, bool, error) {
					if r.calls.add("lookup") == 1 {
						panic("in lookup")
					}
					return 7, true, nil
				},
				Undo: func(_ context.Context, _ faultCall, n int) error {
					if r.calls.add(fmt.Sprint("undo-", n)) == 1 {
						panic("in undo")
					}
					return nil
				},
			})
			r.want(s, pgengine.Compensated, "do commit lookup lookup undo-7 lookup undo-7")
			r.failed(s, "x", "in commit")
			r.failed(s, "x", "in lookup")
			r.failed(s, "x", "in undo")
		},
		"a Do that returns after its Timeout": func(r run) {
			s := r.saga(act[int]{Name: "x", Timeout: 20 * time.Millisecond, Retry: quick, Do: func(ctx context.Context, c faultCall) (int, error) {
				r.calls.add("do")
				<-ctx.Done()
				if c.Attempt == 1 {
					return 0, ctx.Err()
				}
				return 1, nil // late, and a success
			}})
			r.want(s, pgengine.Completed, "do do")
			r.failed(s, "x", "timed out", "the step's Timeout")
			if len(s.Attempts) != 1 || s.Attempts[0].Kind != "timeout" {
				r.Errorf("attempts %+v", s.Attempts)
			}
		},
		"a Do that ignores its context": func(r run) {
			s := r.saga(act[int]{Name: "x", Timeout: 10 * time.Millisecond, Do: func(context.Context, faultCall) (int, error) {
				time.Sleep(1100 * time.Millisecond)
				return 1, nil
			}})
			r.want(s, pgengine.Completed, "")
			if r.log.with("ignores its context", "saga=fault", "saga_id="+s.ID, "step=x") != 1 {
				r.Error("nobody says that it ignores its context")
			}
		},
		"Terminal": func(r run) {
			first := r.first()
			s := r.saga(first, act[int]{
				Name: "x", After: pgengine.Steps[fault](first),
				Do:   func(context.Context, faultCall) (int, error) { r.calls.add("do"); return 0, pgengine.Terminal(errNo) },
				Undo: func(context.Context, faultCall, int) error { r.calls.add("undo"); return nil },
			})
			r.want(s, pgengine.Compensated, "do undo-first")
			r.failed(s, "x", errNo.Error())
		},
		"Retry.If": func(r run) {
			s := r.saga(txs[int]{Name: "x", Retry: pgengine.Retry{Initial: time.Millisecond, If: func(err error) bool { return !errors.Is(err, errNo) }}, Do: func(_ context.Context, _ pgx.Tx, c faultCall) (int, error) {
				if r.calls.add("do") == 1 {
					return 0, errors.New("again")
				}
				return 0, errNo
			}})
			r.want(s, pgengine.Compensated, "do do")
		},
		"Optional that fails": func(r run) {
			maybe := txs[int]{Name: "maybe", Optional: true, Retry: once, Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 0, errNo }}
			s := r.saga(maybe, txs[int]{Name: "x", After: pgengine.Steps[fault](maybe), Do: func(_ context.Context, _ pgx.Tx, c faultCall) (int, error) {
				_, ok := maybe.Maybe(c)
				r.calls.add(fmt.Sprint(ok))
				return 1, nil
			}})
			r.want(s, pgengine.Completed, "false")
			r.failed(s, "maybe", errNo.Error())
		},
		"Undo that fails twice": func(r run) {
			first := r.first()
			first.UndoRetry = pgengine.Retry{Initial: time.Millisecond}
			first.Undo = func(context.Context, pgx.Tx, faultCall, int) error {
				if r.calls.add("undo") < 3 {
					return errNo
				}
				return nil
			}
			s := r.saga(first, txs[int]{Name: "x", Retry: once, After: pgengine.Steps[fault](first), Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 0, errNo }})
			r.want(s, pgengine.Compensated, "undo undo undo")
			if len(s.Attempts) != 2 || s.Attempts[1].Direction != pgengine.Undo || s.Attempts[1].Attempt != 2 {
				r.Errorf("attempts %+v", s.Attempts)
			}
		},
		"in doubt, looked up": func(r run) { r.inDoubt(true, true, "do lookup undo-7-false") },
		"in doubt, not found": func(r run) { r.inDoubt(true, false, "do lookup") },
		"in doubt, repeated":  func(r run) { r.inDoubt(false, true, "do do undo-7-false") },
		"in doubt for ever":   func(r run) { r.inDoubt(false, false, "do do undo-0-true") },
		"in doubt, and the other side hangs": func(r run) {
			s := r.saga(act[int]{
				Name: "x", Retry: once, Timeout: 50 * time.Millisecond, UndoRetry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
				Do: func(ctx context.Context, _ faultCall) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
				Undo: func(ctx context.Context, c faultCall, _ int) error {
					r.calls.add(fmt.Sprint("undo-", c.InDoubt()))
					return ctx.Err()
				},
			})
			r.want(s, pgengine.Compensated, "undo-true")
		},
		"Commit and UndoCommit are retried, and theirs is written once": func(r run) {
			x := act[int]{
				Name: "x", Retry: quick, UndoRetry: quick,
				Do: func(context.Context, faultCall) (int, error) { return 7, nil },
				Commit: func(ctx context.Context, tx pgx.Tx, c faultCall, n int) error {
					if err := errors.Join(r.write(ctx, tx, c), outbox.Publish(ctx, tx, outbox.JSON("done", "k", n))); err != nil || r.calls.add("commit") > 1 {
						return err
					}
					return errNo
				},
				Undo: func(context.Context, faultCall, int) error { return nil },
				UndoCommit: func(ctx context.Context, tx pgx.Tx, c faultCall, n int) error {
					if err := errors.Join(r.write(ctx, tx, c), outbox.Publish(ctx, tx, outbox.JSON("undone", "k", n))); err != nil || r.calls.add("undocommit") > 1 {
						return err
					}
					return errNo
				},
			}
			s := r.saga(x, txs[int]{Name: "y", Retry: once, After: pgengine.Steps[fault](x), Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 0, errNo }})
			r.want(s, pgengine.Compensated, "commit commit undocommit undocommit")
			if got := query[string](r.T, r.pool, "SELECT coalesce(string_agg(topic || ' ' || step, ',' ORDER BY id), '') FROM pgsagaz.outbox WHERE saga_id = $1", s.ID); r.written(s) != 2 || got != "done x,undone x" {
				r.Errorf("%d rows, messages %q", r.written(s), got)
			}
		},
		"a constraint fails at COMMIT": func(r run) {
			s := r.saga(txs[int]{Name: "x", Retry: quick, Do: func(ctx context.Context, tx pgx.Tx, c faultCall) (int, error) {
				if r.calls.add("do") == 1 {
					_, err := tx.Exec(ctx, "INSERT INTO owned VALUES (1)")
					return 0, err
				}
				return 1, nil
			}})
			r.want(s, pgengine.Completed, "do do")
			r.failed(s, "x", "owned_id_fkey")
		},
		"deadline inside an Activity": func(r run) {
			s := r.sagaWith(pgengine.Config{}, 700*time.Millisecond, act[int]{Name: "x", Do: func(ctx context.Context, _ faultCall) (int, error) { <-ctx.Done(); return 0, ctx.Err() }})
			if s.State != pgengine.Compensated || s.Cause == nil {
				r.Errorf("%s, cause %+v", s.State, s.Cause)
			}
			r.failed(s, "x", "the saga's deadline")
		},
		"deadline while a retry waits": func(r run) {
			first := r.first()
			s := r.sagaWith(pgengine.Config{}, 700*time.Millisecond, first, txs[int]{Name: "x", After: pgengine.Steps[fault](first), Retry: pgengine.Retry{Initial: time.Hour, Max: time.Hour}, Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 0, errNo }})
			r.want(s, pgengine.Compensated, "undo-first")
			if s.Cause == nil || s.Cause.Kind != pgengine.CauseDeadline {
				r.Errorf("cause %+v", s.Cause)
			}
		},
		"a zero in the input and in a result": func(r run) {
			e := r.engine(pgengine.Config{}, 0, txs[string]{Name: "x", Do: func(_ context.Context, _ pgx.Tx, c faultCall) (string, error) { return c.Input.Note, nil }})
			atWork(r.T, e, jobs.Config{})
			s := atRest(r.T, e, start(r.T, e, fault{"a\x00b"}, &pgengine.StartOptions{Key: "k"}).ID)
			if s.State != pgengine.Completed || string(s.Steps[0].Result) != `"a\u0000b"` {
				r.Errorf("%s, %+v", s.State, s.Steps)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(run{T: t, pool: notePool(t, sql.WakeOnCommit), log: newLogged(), calls: &calls{}})
		})
	}
}

// inDoubt fails an Activity that may have happened, and sees how it is resolved.
func (r run) inDoubt(lookup, known bool, called string) {
	r.Helper()
	x := act[int]{
		Name: "x", Retry: once,
		Do: func(_ context.Context, c faultCall) (int, error) {
			if c.Key() != c.DoKey() {
				r.Errorf("Do's key is %s, and %s", c.Key(), c.DoKey())
			}
			if n := r.calls.add("do"); n == 1 || !known {
				return 0, errNo
			}
			return 7, nil
		},
		Undo: func(_ context.Context, c faultCall, n int) error {
			if c.Key() != c.DoKey()+"/undo" {
				r.Errorf("Undo's key is %s", c.Key())
			}
			r.calls.add(fmt.Sprintf("undo-%d-%v", n, c.InDoubt()))
			return nil
		},
	}
	if lookup {
		x.Lookup = func(_ context.Context, c faultCall) (int, bool, error) {
			if c.Key() != c.DoKey() {
				r.Errorf("Lookup's key is %s, and %s", c.Key(), c.DoKey())
			}
			r.calls.add("lookup")
			return 7, known, nil
		}
	}
	s := r.saga(x)
	r.want(s, pgengine.Compensated, called)
	if last := s.Steps[len(s.Steps)-1]; (last.State == "nothing") != (lookup && !known) {
		r.Errorf("the undo is %+v", last)
	}
}

// TestStuck: an undo that gives up parks its saga, which shows, and which an operator sets going.
func TestStuck(t *testing.T) {
	t.Parallel()
	for _, terminal := range []bool{false, true} {
		t.Run(fmt.Sprintf("terminal %v", terminal), func(t *testing.T) {
			t.Parallel()
			r := run{T: t, pool: notePool(t, sql.WakeOnCommit), log: newLogged(), calls: &calls{}}
			attempts := 2
			if terminal {
				attempts = 1
			}
			first := r.first()
			first.UndoRetry = quick
			first.Undo = func(context.Context, pgx.Tx, faultCall, int) error {
				switch {
				case r.calls.add("undo") > attempts:
					return nil
				case terminal:
					return pgengine.Terminal(errNo)
				}
				return errNo
			}
			e := r.engine(pgengine.Config{}, 0, first, txs[int]{Name: "x", Retry: once, After: pgengine.Steps[fault](first), Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 0, errNo }})
			atWork(t, e, jobs.Config{})
			id := start(t, e, fault{}, nil).ID
			s := atRest(t, e, id)
			last := s.Steps[len(s.Steps)-1]
			if s.State != pgengine.Stuck || last.Step != "first" || last.State != "stuck" || last.Error != errNo.Error() || len(s.Attempts) != attempts {
				t.Errorf("%s, %+v, attempts %+v", s.State, s.Steps, s.Attempts)
			}
			if r.log.with("ERROR", "needs an operator", "saga=fault", "saga_id="+id, "step=first") != 1 {
				t.Error("nobody calls the operator")
			}
			if err := sql.InTx(t.Context(), r.pool, func(tx pgx.Tx) error { return e.Retry(t.Context(), tx, id, pgengine.By{Reason: "mended"}) }); err != nil {
				t.Fatal(err)
			}
			seen(t, e, id, func(s pgengine.Status) bool { return s.State == pgengine.Compensated })
		})
	}
}

// TestAVersionThatThisWorkerHasNot is left for one that has it, and named in the log once.
func TestAVersionThatThisWorkerHasNot(t *testing.T) {
	t.Parallel()
	r := run{T: t, pool: notePool(t, sql.WakeOnCommit), log: newLogged(), calls: &calls{}}
	step := txs[int]{Name: "x", Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 1, nil }}
	old := r.engine(pgengine.Config{}, 0, step)
	atWork(t, old, jobs.Config{})
	newer := engine(t, r.pool, pgengine.Saga[fault]{Version: 2, Steps: pgengine.Steps[fault](step)})
	id := start(t, newer, fault{}, nil).ID
	for begun := time.Now(); r.log.with("wait for a worker that has their code", "saga=fault", "version=2", id) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatal("nobody says that the saga waits")
		}
	}
	atWork(t, newer, jobs.Config{})
	if s := atRest(t, old, id); s.State != pgengine.Completed || s.Version != 2 || len(s.Attempts) > 0 {
		t.Errorf("%+v", s)
	}
	if n := r.log.with("wait for a worker that has their code"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// TestRunWaitsForTheDatabase that is down when the worker starts.
func TestRunWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	server := sqltest.Server(t)
	pool, err := pgxpool.New(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := sql.Migrate(t.Context(), pool.Config().ConnConfig, &sql.MigrateOptions{Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	if err := server.Crash(); err != nil {
		t.Fatal(err)
	}
	r := run{T: t, pool: pool, log: newLogged(), calls: &calls{}}
	e := r.engine(pgengine.Config{}, 0, txs[int]{Name: "x", Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 1, nil }})
	t.Run("", func(t *testing.T) {
		atWork(t, e, jobs.Config{})
		for begun := time.Now(); r.log.with("the database is not ready") == 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(begun) > 20*time.Second {
				t.Fatal("nobody says that the database is not ready")
			}
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := atRest(t, e, start(t, e, fault{}, nil).ID); s.State != pgengine.Completed {
			t.Errorf("%+v", s)
		}
	})
}
