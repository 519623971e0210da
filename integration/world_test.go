//go:build unix

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/localpg"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// patience is how long anything that must happen may take on a machine that does much else.
const patience = 30 * time.Second

const (
	shelves       = 8
	itemsPerShelf = 1_000_000
)

// world is a database in which the sagas run, with the outside that they call.
type world struct {
	t       testing.TB
	url     string
	pool    *pgxpool.Pool
	engine  *pgengine.Engine
	outside *outside

	mu        sync.Mutex
	names     int
	ids       map[string]string // of the sagas, by the orders' IDs
	orders    map[string]Order  // by the sagas' ids
	cancelled map[string]bool   // sagas
}

// newWorld makes one in a database of the shared server.
func newWorld(t testing.TB) *world {
	t.Helper()
	return openWorld(t, sqltest.URL(t))
}

// newWorldOn makes one on a server that the test may crash.
func newWorldOn(t testing.TB, server *localpg.Server) *world {
	t.Helper()
	config, err := pgx.ParseConfig(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	return openWorld(t, server.URL())
}

func openWorld(t testing.TB, url string) *world {
	t.Helper()
	w := &world{t: t, url: url, outside: newOutside(t), ids: map[string]string{}, orders: map[string]Order{}, cancelled: map[string]bool{}}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	sql.WakeOnCommit(config)
	if w.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	if w.engine, err = pgengine.New(w.pool, pgengine.Config{Sagas: sagas(newClient(w.outside.url, "test"))}); err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = w.pool.Exec(t.Context(), `
		CREATE TABLE effect (saga uuid NOT NULL, step text NOT NULL, direction text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
		CREATE TABLE shelf (id integer PRIMARY KEY, items integer NOT NULL);`)
	if err == nil {
		_, err = w.pool.Exec(t.Context(), `INSERT INTO shelf SELECT n, $2 FROM generate_series(0, $1 - 1) n`, shelves, itemsPerShelf)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// launch starts a worker process and does not wait for it. What o leaves empty of ID, URL and Outside is the world's.
func (w *world) launch(o workerOptions) *process {
	w.t.Helper()
	if o.ID == "" {
		w.mu.Lock()
		w.names++
		o.ID = fmt.Sprintf("w%d", w.names)
		w.mu.Unlock()
	}
	if o.URL == "" {
		o.URL = w.url
	}
	o.Outside = w.outside.url
	return startProcess(w.t, o.ID, workerVariable, o)
}

// worker starts a worker process that takes jobs when it returns.
func (w *world) worker(o workerOptions) *process {
	w.t.Helper()
	return w.launch(o).ready(w.t)
}

// start starts the order's saga, however often Postgres goes away meanwhile.
func (w *world) start(o Order) (id string) {
	w.t.Helper()
	if o.ID == "" {
		w.mu.Lock()
		o.ID = fmt.Sprintf("order-%d", len(w.ids)+1)
		w.mu.Unlock()
	}
	eventually(w.t, patience, "start of "+o.ID, func() bool {
		err := pgx.BeginFunc(w.t.Context(), w.pool, func(tx pgx.Tx) error {
			s, err := w.engine.Start(w.t.Context(), tx, o, &pgengine.StartOptions{Key: o.ID})
			id = s.ID
			return err
		})
		return err == nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids[o.ID], w.orders[id] = id, o
	return id
}

// startMany starts n orders, of all kinds in turn.
func (w *world) startMany(n int) (ids []string) {
	w.t.Helper()
	kinds := allKinds()
	for i := range n {
		o := kinds[i%len(kinds)]
		o.ID, o.Shelf = fmt.Sprintf("many-%d", i), i%shelves
		ids = append(ids, w.start(o))
	}
	return ids
}

// allKinds are orders of all the kinds there are, but for cancelled ones. Most go well, as in life.
func allKinds() []Order {
	return []Order{
		{},
		{Faults: map[string]string{"ship": terminal}},
		{},
		{Faults: map[string]string{"pack": flaky, "label": flaky, "undo charge": flaky}},
		{},
		{Faults: map[string]string{"charge": lost}},
		{Faults: map[string]string{"note": panics, "tell": flaky}},
		{Faults: map[string]string{"tell": terminal, "undo pack": flaky, "undo label": flaky}},
		{},
		{Faults: map[string]string{"label": lost, "undo reserve": flaky}},
	}
}

// cancel asks for a saga's end. A saga that has ended already goes on as it was.
func (w *world) cancel(id string) {
	w.t.Helper()
	eventually(w.t, patience, "cancel", func() bool {
		err := pgx.BeginFunc(w.t.Context(), w.pool, func(tx pgx.Tx) error { return w.engine.Cancel(w.t.Context(), tx, id, "a test says so") })
		return err == nil || errors.Is(err, pgengine.ErrEnded)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancelled[id] = true
}

// wait waits until a saga has ended, and returns all that is known of it.
func (w *world) wait(id string) pgengine.Status {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if _, err := w.engine.Wait(ctx, id); err != nil {
		w.fatalOpen(err.Error())
	}
	s, err := w.engine.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// allEnd waits until all sagas have ended, and says how long that took.
func (w *world) allEnd(within time.Duration) {
	w.t.Helper()
	begin := time.Now()
	for open := -1; open != 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > within {
			w.fatalOpen(fmt.Sprintf("%d sagas have not ended within %v", open, within))
		}
		if err := w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NULL`).Scan(&open); err != nil {
			open = -1 // Postgres may still be recovering
		}
	}
	w.t.Logf("%d sagas had ended after another %v", len(w.orders), time.Since(begin).Round(time.Millisecond))
}

// fatalOpen ends the test and shows what has not ended.
func (w *world) fatalOpen(why string) {
	w.t.Helper()
	rows, err := w.pool.Query(context.WithoutCancel(w.t.Context()), `
		SELECT format('saga %s %s: lane %s', s.id, s.state, coalesce(to_jsonb(l)::text, 'none'))
		       || coalesce(' job ' || (SELECT to_jsonb(j) - 'metadata' - 'tags' - 'args' FROM pgsagaz.river_job j WHERE j.id = l.job_id)::text, ' no job')
		FROM pgsagaz.saga s LEFT JOIN pgsagaz.lane l ON l.saga_id = s.id WHERE s.ended_at IS NULL LIMIT 5`)
	if err == nil {
		var open []string
		if open, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			for _, o := range open {
				w.t.Log(o)
			}
		}
	}
	w.t.Fatal(why, err)
}

// attempts are the kinds of a step's failed attempts, in their order.
func attempts(s pgengine.Status, step string) (kinds []string) {
	for _, a := range s.Attempts {
		if a.Step == step {
			kinds = append(kinds, a.Kind)
		}
	}
	return kinds
}

// wantAttempts proves how often a step failed, and how.
func wantAttempts(t testing.TB, s pgengine.Status, step string, kinds ...string) {
	t.Helper()
	if got := attempts(s, step); !slices.Equal(got, kinds) {
		t.Errorf("failed attempts at %s are %q, want %q", step, got, kinds)
	}
}

// eventually repeats f until it says yes.
func eventually(t testing.TB, within time.Duration, what string, f func() bool) {
	t.Helper()
	for begin := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// modes runs a test with lanes, and with a River job a step.
func modes(t *testing.T, f func(t *testing.T, jobPerStep bool)) {
	t.Helper()
	t.Run("lane", func(t *testing.T) { t.Parallel(); f(t, false) })
	t.Run("job_per_step", func(t *testing.T) { t.Parallel(); f(t, true) })
}
