package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// work runs a worker until the test ends or stop is called.
func work(t testing.TB, e *pgengine.Engine) (stop func()) {
	t.Helper()
	w, err := jobs.NewWorker(e, jobs.Config{Grace: time.Second, JobPerStep: *jobPerStep})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func await(t testing.TB, e *pgengine.Engine, id string, want pgengine.State) pgengine.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := e.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if s.State != want {
		t.Fatalf("saga %s is %s (%v), want %s", id, s.State, s.Cause, want)
	}
	return s
}

// echo is a saga whose output is its input's ID.
func echo(version int) pgengine.Definition {
	s := pgengine.TxStep[part, string]{Name: "echo", Do: func(_ context.Context, _ pgx.Tx, c partCall) (string, error) { return c.Input.ID, nil }}
	return pgengine.Saga[part]{Version: version, Output: s, Steps: pgengine.Steps[part](s)}
}

// rows counts all rows of the schema, River's included, but for those that are there from the beginning.
func rows(t testing.TB, pool *pgxpool.Pool) map[string]int {
	t.Helper()
	names, err := pool.Query(t.Context(), `SELECT c.relname FROM pg_class c
		WHERE c.relnamespace = 'pgsagaz'::regnamespace AND c.relkind IN ('r', 'p')
		  AND c.relname NOT IN ('schema_info', 'schema_applied', 'schema_migrations', 'definition', 'river_migration',
		                        'outbox_bucket', 'outbox_cursor', 'outbox_state', 'inbox_state')`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(names, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, table := range tables {
		if n := query[int](t, pool, "SELECT count(*) FROM pgsagaz."+pgx.Identifier{table}.Sanitize()); n > 0 {
			counts[table] = n
		}
	}
	return counts
}

func TestStartIsInTheCallersTransaction(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	register(t, e)
	before := rows(t, pool)
	if len(before) > 0 {
		t.Fatalf("there are rows before anything was started: %v", before)
	}
	with := &pgengine.StartOptions{Key: "k", Tags: []string{"x"}}
	begin := func() pgx.Tx {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "CREATE TABLE IF NOT EXISTS mine (saga uuid)"); err != nil {
			t.Fatal(err)
		}
		return tx
	}

	tx := begin()
	if _, err := e.Start(t.Context(), tx, part{ID: "lost"}, with); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, pool); len(n) > 0 { // as another session sees it
		t.Errorf("rows before the commit: %v", n)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, pool); len(n) > 0 {
		t.Errorf("rows after the rollback: %v", n)
	}

	tx = begin()
	sp, err := tx.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), sp, part{ID: "lost"}, with); err != nil {
		t.Fatal(err)
	}
	if err := sp.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := e.Start(t.Context(), tx, part{ID: "kept"}, with) // the key is free again
	if err != nil || s.Existed {
		t.Fatal(s, err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO mine VALUES ($1)", s.ID); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, pool); fmt.Sprint(got) != "map[lane:1 river_job:1 saga:1 start_key:1]" {
		t.Errorf("a start wrote %v", got)
	}
	if query[string](t, pool, "SELECT saga::text FROM mine") != s.ID {
		t.Error("the caller's own row is not there")
	}
	work(t, e)
	if got := await(t, e, s.ID, pgengine.Completed); string(got.Output) != `"kept"` {
		t.Errorf("%+v", got)
	}
}

func TestStartWithAKey(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1), empty[returned]())
	first := start(t, e, part{ID: "a", Sizes: []int{1, 2}}, &pgengine.StartOptions{Key: "k"})
	if first.Existed || first.Version != 1 {
		t.Errorf("%+v", first)
	}
	if again := start(t, e, part{ID: "a", Sizes: []int{1, 2}}, &pgengine.StartOptions{Key: "k"}); again.ID != first.ID || !again.Existed {
		t.Errorf("the same key and input: %+v, want %s", again, first.ID)
	}
	if other := start(t, e, part{ID: "a"}, &pgengine.StartOptions{Key: "k2"}); other.ID == first.ID {
		t.Error("another key gave the same saga")
	}
	if other := start(t, e, returned{}, &pgengine.StartOptions{Key: "k"}); other.ID == first.ID || other.Existed {
		t.Error("keys are not a saga name's own")
	}
	if one, two := start(t, e, part{}, nil), start(t, e, part{}, nil); one.ID == two.ID || two.Existed {
		t.Error("two starts without a key gave one saga")
	}

	inTx := func(f func(tx pgx.Tx) error) error { return pgx.BeginFunc(t.Context(), pool, f) }
	for _, same := range []string{ // order and white space are not part of an input, nor what comes twice
		`{"Sizes":[1,2],"ID":"a"}`, "{ \"ID\" : \"a\",\n\t\"Sizes\": [1, 2] }", `{"ID":"\u0061","Sizes":[1,2]}`, `{"ID":"b","ID":"a","Sizes":[1,2]}`,
	} {
		err := inTx(func(tx pgx.Tx) error {
			s, err := e.StartJSON(t.Context(), tx, "part", json.RawMessage(same), &pgengine.StartOptions{Key: "k"})
			if err == nil && (s.ID != first.ID || !s.Existed) {
				t.Errorf("%s: %+v, want %s", same, s, first.ID)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", same, err)
		}
	}
	for _, other := range []part{{ID: "b", Sizes: []int{1, 2}}, {ID: "a", Sizes: []int{2, 1}}, {ID: "a"}} {
		err := inTx(func(tx pgx.Tx) error {
			_, err := e.Start(t.Context(), tx, other, &pgengine.StartOptions{Key: "k"})
			return err
		})
		if !errors.Is(err, pgengine.ErrOtherInput) || !strings.Contains(err.Error(), first.ID) || !strings.Contains(err.Error(), "key k") {
			t.Errorf("%+v: %v, want ErrOtherInput with the saga's id", other, err)
		}
	}
	if n := query[int](t, pool, "SELECT count(*) FROM pgsagaz.saga WHERE key = 'k' AND name = 'part'"); n != 1 {
		t.Errorf("%d sagas of one key", n)
	}

	// A key outlives its saga's end.
	work(t, e)
	await(t, e, first.ID, pgengine.Completed)
	if again := start(t, e, part{ID: "a", Sizes: []int{1, 2}}, &pgengine.StartOptions{Key: "k"}); again.ID != first.ID || !again.Existed {
		t.Errorf("after its end: %+v", again)
	}

	long := strings.Repeat("k", 513)
	err := inTx(func(tx pgx.Tx) error {
		_, err := e.Start(t.Context(), tx, part{}, &pgengine.StartOptions{Key: long})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "1 to 512 bytes") {
		t.Errorf("a key of 513 bytes: %v", err)
	}
}

func TestConcurrentStartsOfOneKey(t *testing.T) {
	t.Parallel()
	pool := sqltest.Config(t, func(c *pgxpool.Config) { c.MaxConns = 16 })
	e := engine(t, pool, echo(1))
	for round := range 20 {
		key := fmt.Sprint("k", round)
		var mu sync.Mutex
		ids, fresh := map[string]bool{}, 0
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					s, err := e.Start(t.Context(), tx, part{ID: key}, &pgengine.StartOptions{Key: key})
					if err != nil {
						return err
					}
					if i%4 == 0 {
						return errRollback // whoever waits for it tries himself
					}
					mu.Lock()
					defer mu.Unlock()
					ids[s.ID] = true
					if !s.Existed {
						fresh++
					}
					return nil
				})
				if err != nil && !errors.Is(err, errRollback) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || fresh != 1 {
			t.Fatalf("round %d: sagas %v, %d of them new", round, ids, fresh)
		}
	}
	if n := query[int](t, pool, "SELECT count(*) FROM pgsagaz.saga"); n != 20 {
		t.Errorf("%d sagas, want 20", n)
	}
}

var errRollback = errors.New("roll back")

func TestTheSecondStartWinsIfTheFirstRollsBack(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	key := &pgengine.StartOptions{Key: "k"}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lost, err := e.Start(t.Context(), tx, part{}, key)
	if err != nil {
		t.Fatal(err)
	}
	won := make(chan pgengine.Started, 1)
	go func() {
		defer close(won)
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			s, err := e.Start(t.Context(), tx, part{}, key)
			won <- s
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}()
	for query[int](t, pool, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
		select {
		case s := <-won:
			t.Fatalf("the second start did not wait: %+v", s)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := <-won
	if s.Existed || s.ID == lost.ID || s.ID == "" {
		t.Errorf("the second start gave %+v", s)
	}
	<-won // committed
	if id := query[string](t, pool, "SELECT saga_id::text FROM pgsagaz.start_key"); id != s.ID {
		t.Errorf("the key leads to %s, want %s", id, s.ID)
	}
}

func TestStartOptions(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := start(t, e, part{ID: "x"}, &pgengine.StartOptions{Key: "k", Tags: []string{"red", "big"}, Timeout: time.Hour, TraceParent: parent})
	start(t, e, part{}, nil)
	got, err := e.Get(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Key != "k" || strings.Join(got.Tags, " ") != "red big" || got.Deadline == nil || got.Deadline.Sub(got.CreatedAt).Round(time.Minute) != time.Hour || got.State != pgengine.Running {
		t.Errorf("%+v", got)
	}
	if p := query[string](t, pool, "SELECT traceparent FROM pgsagaz.saga WHERE id = $1", s.ID); p != parent {
		t.Errorf("traceparent %q", p)
	}
	for _, filter := range []pgengine.Filter{{Tag: "red"}, {Tag: "big"}, {Key: "k"}} {
		var found []string
		for one, err := range e.List(t.Context(), filter) {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, one.ID)
		}
		if len(found) != 1 || found[0] != s.ID {
			t.Errorf("%+v finds %v, want %s", filter, found, s.ID)
		}
	}
}

// Inputs that are no JSON.
type (
	withChan struct{ C chan int }
	withNaN  struct{ F float64 }
	cyclic   struct{ Next *cyclic }
	refusing struct{}
)

func (withChan) SagaName() string             { return "part" }
func (withNaN) SagaName() string              { return "part" }
func (cyclic) SagaName() string               { return "part" }
func (refusing) SagaName() string             { return "part" }
func (refusing) MarshalJSON() ([]byte, error) { return nil, errors.New("not today") }

func TestInputsThatCannotBeStored(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	small, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{echo(1)}, Logger: quiet, MaxPayload: 100})
	if err != nil {
		t.Fatal(err)
	}
	ring := cyclic{Next: &cyclic{}}
	ring.Next.Next = &ring
	for name, test := range map[string]struct {
		input pgengine.Input
		want  string
		is    error
	}{
		"chan":            {withChan{make(chan int)}, "the input does not marshal: json: unsupported type", nil},
		"NaN":             {withNaN{math.NaN()}, "the input does not marshal: json: unsupported value: NaN", nil},
		"cycle":           {ring, "the input does not marshal", nil},
		"its own refusal": {refusing{}, "not today", nil},
		"too large":       {part{ID: strings.Repeat("x", 100)}, "input of 122 bytes, the limit is 100", pgengine.ErrTooLarge},
		"pointer":         {&part{}, "used by value", nil},
		"nil":             {nil, "used by value", nil},
		"unknown":         {another{}, "unknown saga another", pgengine.ErrUnknownSaga},
		"promoted":        {promoted{}, "has its name from the embedded", nil},
	} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = small.Start(t.Context(), tx, test.input, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) || (test.is != nil && !errors.Is(err, test.is)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		_ = tx.Rollback(t.Context())
	}
	if n := rows(t, pool); len(n) > 0 {
		t.Errorf("rows: %v", n)
	}
	start(t, small, part{ID: strings.Repeat("x", 78)}, nil) // 100 bytes with braces, quotes and Sizes
}

func TestStartJSON(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	for input, want := range map[string]string{
		`{"ID": "x"`:  "the input is not JSON",
		``:            "the input is not JSON",
		`{"ID": 5}`:   "the input does not fit",
		`[]`:          "the input does not fit",
		`{"ID": "x"}`: "",
		`{}`:          "",
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := e.StartJSON(t.Context(), tx, "part", json.RawMessage(input), nil)
			return err
		})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", input, err, want)
		}
	}
}

func TestStartWithoutTheCode(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	bare := engine(t, pool)
	try := func(in pgengine.Input, o *pgengine.StartOptions) (s pgengine.Started, err error) {
		err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			s, err = bare.Start(t.Context(), tx, in, o)
			return err
		})
		return s, err
	}
	if _, err := try(part{}, nil); !errors.Is(err, pgengine.ErrUnknownSaga) || !strings.Contains(err.Error(), "none yet") {
		t.Errorf("nothing is registered: %v", err)
	}
	register(t, engine(t, pool, echo(1), echo(3), empty[returned]()))
	_, err := try(another{}, nil)
	if !errors.Is(err, pgengine.ErrUnknownSaga) || !strings.Contains(err.Error(), "unknown saga another") || !strings.Contains(err.Error(), "Registered: part 1, part 3, return 1.") {
		t.Errorf("an unknown saga: %v", err)
	}
	if _, err := try(part{}, &pgengine.StartOptions{Version: 2}); !errors.Is(err, pgengine.ErrUnknownSaga) || !strings.Contains(err.Error(), "part version 2") {
		t.Errorf("an unknown version: %v", err)
	}
	if s, err := try(part{}, &pgengine.StartOptions{Version: 1}); err != nil || s.Version != 1 {
		t.Errorf("a chosen version: %+v, %v", s, err)
	}
	if s, err := try(part{}, nil); err != nil || s.Version != 3 {
		t.Errorf("without workers: %+v, %v, want the highest registered", s, err)
	}

	// In the middle of a deploy: version 3 is registered, but only 1 and 2 live.
	both := engine(t, pool, echo(1), echo(2))
	stop := work(t, both)
	for query[int](t, pool, "SELECT count(*) FROM pgsagaz.worker") == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	s, err := try(part{ID: "x"}, nil)
	if err != nil || s.Version != 2 {
		t.Fatalf("with a worker: %+v, %v, want the highest that lives", s, err)
	}
	if got := await(t, bare, s.ID, pgengine.Completed); string(got.Output) != `"x"` {
		t.Errorf("%+v", got)
	}
	stop()
	if s, err = try(part{}, nil); err != nil || s.Version != 3 {
		t.Errorf("the workers are gone: %+v, %v", s, err)
	}
	// A worker that was silent for longer than its lease counts for nothing.
	_, err = pool.Exec(t.Context(), `INSERT INTO pgsagaz.worker (id, host, pid, lock_key, lease, definitions, beat_at)
		VALUES ('dead', 'h', 1, 1, '5s', '{part/1}', pgsagaz.now() - interval '6s')`)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = try(part{}, nil); err != nil || s.Version != 3 {
		t.Errorf("a dead worker: %+v, %v", s, err)
	}
}
