package sql_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// ear listens where River's producers listen, on a connection of its own.
type ear struct{ conn *pgx.Conn }

func listen(t testing.TB, pool *pgxpool.Pool) ear {
	t.Helper()
	config := pool.Config().ConnConfig.Copy()
	config.Tracer = nil
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	exec(t, conn, `LISTEN "pgsagaz.river_insert"`)
	return ear{conn}
}

// until returns the queues that were woken before the queue last was, and with it.
func (e ear) until(t testing.TB, last string) (heard []string) {
	t.Helper()
	ctx, cancel := contextWithTimeout(t, 20*time.Second)
	defer cancel()
	for {
		n, err := e.conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("%s was never woken, only %q: %v", last, heard, err)
		}
		queue, ok := strings.CutPrefix(n.Payload, `{"queue":"`)
		if queue = strings.TrimSuffix(queue, `"}`); !ok {
			t.Errorf("payload %s", n.Payload)
		}
		if queue != last {
			heard = append(heard, queue)
			continue
		}
		// What was sent in the same transaction has arrived by the answer to the next statement.
		exec(t, e.conn, "SELECT 1")
		for {
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			n, err := e.conn.WaitForNotification(short)
			cancel()
			if err != nil {
				break
			}
			heard = append(heard, strings.TrimSuffix(strings.TrimPrefix(n.Payload, `{"queue":"`), `"}`))
		}
		return heard
	}
}

// commit commits a transaction that leaves a wake for queue.
func commit(t testing.TB, db interface {
	Begin(context.Context) (pgx.Tx, error)
}, queue string,
) {
	t.Helper()
	if err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if queue != "" {
			sql.WakeLater(tx.Conn(), queue)
		}
		_, err := tx.Exec(t.Context(), "SELECT 1")
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWakeOnCommit(t *testing.T) {
	t.Parallel()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	begin := func(t *testing.T, conn *pgxpool.Conn) pgx.Tx {
		t.Helper()
		tx, err := conn.Begin(t.Context())
		must(t, err)
		sql.WakeLater(tx.Conn(), "q")
		return tx
	}
	batch := func(t *testing.T, conn *pgxpool.Conn, statements ...string) error {
		b := &pgx.Batch{}
		for _, s := range statements {
			b.Queue(s)
		}
		return conn.SendBatch(t.Context(), b).Close()
	}
	// A foreign key that is only looked at by the COMMIT.
	const orphan = "INSERT INTO leaf VALUES (1)"
	for _, test := range []struct {
		name  string
		fires bool
		run   func(*testing.T, *pgxpool.Conn)
	}{
		{"Begin and Commit", true, func(t *testing.T, conn *pgxpool.Conn) {
			must(t, begin(t, conn).Commit(t.Context()))
		}},
		{"BeginFunc", true, func(t *testing.T, conn *pgxpool.Conn) { commit(t, conn, "q") }},
		{"a savepoint released", true, func(t *testing.T, conn *pgxpool.Conn) {
			tx, err := conn.Begin(t.Context())
			must(t, err)
			commit(t, tx, "q")
			must(t, tx.Commit(t.Context()))
		}},
		{"a savepoint rolled back", true, func(t *testing.T, conn *pgxpool.Conn) {
			tx := begin(t, conn)
			savepoint, err := tx.Begin(t.Context())
			must(t, err)
			must(t, savepoint.Rollback(t.Context()))
			must(t, tx.Commit(t.Context()))
		}},
		{"a statement failed in a savepoint", true, func(t *testing.T, conn *pgxpool.Conn) {
			tx := begin(t, conn)
			savepoint, err := tx.Begin(t.Context())
			must(t, err)
			if _, err := savepoint.Exec(t.Context(), "SELECT 1/0"); err == nil {
				t.Error("no error")
			}
			must(t, savepoint.Rollback(t.Context()))
			must(t, tx.Commit(t.Context()))
		}},
		{"COMMIT in a batch", true, func(t *testing.T, conn *pgxpool.Conn) {
			begin(t, conn)
			must(t, batch(t, conn, "SELECT 1", "COMMIT"))
		}},
		{"a batch in the transaction", true, func(t *testing.T, conn *pgxpool.Conn) {
			tx := begin(t, conn)
			must(t, batch(t, conn, "SELECT 1", "SELECT 2"))
			must(t, tx.Commit(t.Context()))
		}},
		{"END", true, func(t *testing.T, conn *pgxpool.Conn) {
			begin(t, conn)
			exec(t, conn, "END")
		}},
		{"Rollback", false, func(t *testing.T, conn *pgxpool.Conn) {
			must(t, begin(t, conn).Rollback(t.Context()))
		}},
		{"BeginFunc with an error", false, func(t *testing.T, conn *pgxpool.Conn) {
			if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				sql.WakeLater(tx.Conn(), "q")
				return errCut
			}); !errors.Is(err, errCut) {
				t.Error(err)
			}
		}},
		{"ROLLBACK in a batch", false, func(t *testing.T, conn *pgxpool.Conn) {
			begin(t, conn)
			must(t, batch(t, conn, "SELECT 1", "ROLLBACK"))
		}},
		{"COMMIT of a transaction that had failed", false, func(t *testing.T, conn *pgxpool.Conn) {
			tx := begin(t, conn)
			if _, err := tx.Exec(t.Context(), "SELECT 1/0"); err == nil {
				t.Error("no error")
			}
			if err := tx.Commit(t.Context()); !errors.Is(err, pgx.ErrTxCommitRollback) {
				t.Error(err)
			}
		}},
		{"COMMIT that fails", false, func(t *testing.T, conn *pgxpool.Conn) {
			tx := begin(t, conn)
			exec(t, tx, orphan)
			if err := tx.Commit(t.Context()); sql.State(err) != "23503" {
				t.Error(err)
			}
		}},
		{"COMMIT that fails in a batch", false, func(t *testing.T, conn *pgxpool.Conn) {
			begin(t, conn)
			if err := batch(t, conn, orphan, "COMMIT"); sql.State(err) != "23503" {
				t.Error(err)
			}
		}},
		{"COMMIT that a batch's error skips", false, func(t *testing.T, conn *pgxpool.Conn) {
			tx := begin(t, conn)
			if err := batch(t, conn, "SELECT 1/0", "COMMIT"); err == nil {
				t.Error("no error")
			}
			must(t, tx.Rollback(t.Context()))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := sqltest.Config(t, sql.WakeOnCommit)
			exec(t, pool, "CREATE TABLE root (id int PRIMARY KEY); CREATE TABLE leaf (id int REFERENCES root DEFERRABLE INITIALLY DEFERRED)")
			ear := listen(t, pool)
			conn, err := pool.Acquire(t.Context())
			must(t, err)
			defer conn.Release()
			test.run(t, conn)
			if status := conn.Conn().PgConn().TxStatus(); status != 'I' {
				t.Fatalf("the transaction is still open: %c", status)
			}
			commit(t, conn, "") // a wake that was left over would go with it
			commit(t, pool, "end")
			if heard := ear.until(t, "end"); test.fires != slices.Equal(heard, []string{"q"}) || !test.fires && len(heard) > 0 {
				t.Errorf("woken: %q", heard)
			}
		})
	}
}

// TestNoWakeBeforeTheCommit: neither of other transactions of the same connection's pool, nor of savepoints.
func TestNoWakeBeforeTheCommit(t *testing.T) {
	t.Parallel()
	pool := sqltest.Config(t, sql.WakeOnCommit)
	ear := listen(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sql.WakeLater(tx.Conn(), "q")
	exec(t, tx, "SELECT 1")
	commit(t, tx, "savepoint")
	commit(t, pool, "other")
	if heard := ear.until(t, "other"); len(heard) > 0 {
		t.Errorf("woken before the commit: %q", heard)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	commit(t, pool, "end")
	heard := ear.until(t, "end")
	if slices.Sort(heard); !slices.Equal(heard, []string{"q", "savepoint"}) {
		t.Errorf("woken by the commit: %q", heard)
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	for _, traced := range []bool{false, true} {
		t.Run(fmt.Sprintf("WakeOnCommit %v", traced), func(t *testing.T) {
			t.Parallel()
			pool := sqltest.Config(t, func(config *pgxpool.Config) {
				config.MaxConns = 2 // one, and one for the waker
				if traced {
					sql.WakeOnCommit(config)
				}
			})
			ear := listen(t, pool)
			in := func(queue string, fail error) {
				t.Helper()
				if err := sql.InTx(t.Context(), pool, func(tx pgx.Tx) error {
					sql.WakeLater(tx.Conn(), queue)
					return fail
				}); !errors.Is(err, fail) {
					t.Error(err)
				}
			}
			in("failed", errCut)
			in("q", nil)
			in("failed", errCut)
			in("end", nil)
			heard := ear.until(t, "end")
			if !slices.Equal(heard, []string{"q"}) {
				t.Errorf("woken: %q, want q once", heard)
			}
		})
	}
}

// TestStaleWakeWithoutATracer: what a rolled-back transaction left on a connection does not go with the next.
func TestStaleWakeWithoutATracer(t *testing.T) {
	t.Parallel()
	pool := sqltest.Config(t, func(config *pgxpool.Config) { config.MaxConns = 1 })
	ear := listen(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sql.WakeLater(tx.Conn(), "stale")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sql.InTx(t.Context(), pool, func(tx pgx.Tx) error { sql.WakeLater(tx.Conn(), "end"); return nil }); err != nil {
		t.Fatal(err)
	}
	if heard := ear.until(t, "end"); len(heard) > 0 {
		t.Errorf("woken: %q", heard)
	}
}

// allTracer counts its calls, and proves that its contexts come back to it.
type allTracer struct {
	mu    sync.Mutex
	calls map[string]int
}

type traceKey struct{}

func (a *allTracer) start(ctx context.Context, what string) context.Context {
	a.end(ctx, what+" start")
	return context.WithValue(ctx, traceKey{}, what)
}

func (a *allTracer) end(ctx context.Context, what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls = map[string]int{}
	}
	if kind, ok := strings.CutSuffix(what, " end"); ok && ctx.Value(traceKey{}) != kind {
		what += " with another context"
	}
	a.calls[what]++
}

func (a *allTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return a.start(ctx, "query")
}

func (a *allTracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	a.end(ctx, "query end")
}

func (a *allTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return a.start(ctx, "batch")
}

func (a *allTracer) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchQueryData) {
	a.end(ctx, "batch query")
}

func (a *allTracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	a.end(ctx, "batch end")
}

func (a *allTracer) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	return a.start(ctx, "copy")
}

func (a *allTracer) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromEndData) {
	a.end(ctx, "copy end")
}

func (a *allTracer) TracePrepareStart(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareStartData) context.Context {
	return a.start(ctx, "prepare")
}

func (a *allTracer) TracePrepareEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareEndData) {
	a.end(ctx, "prepare end")
}

func (a *allTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return a.start(ctx, "connect")
}

func (a *allTracer) TraceConnectEnd(ctx context.Context, _ pgx.TraceConnectEndData) {
	a.end(ctx, "connect end")
}

func (a *allTracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	return a.start(ctx, "acquire")
}

func (a *allTracer) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	a.end(ctx, "acquire end")
}

func (a *allTracer) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData) {
	a.end(context.Background(), "release")
}

func TestWakeOnCommitKeepsTheUsersTracer(t *testing.T) {
	t.Parallel()
	user := &allTracer{}
	pool := sqltest.Config(t, func(config *pgxpool.Config) {
		config.ConnConfig.Tracer = user
		sql.WakeOnCommit(config)
	})
	ear := listen(t, pool)
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		exec(t, tx, "CREATE TABLE mine (id int)")
		if _, err := tx.CopyFrom(t.Context(), pgx.Identifier{"mine"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}})); err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue("SELECT 1")
		sql.WakeLater(tx.Conn(), "q")
		return tx.SendBatch(t.Context(), b).Close()
	}); err != nil {
		t.Fatal(err)
	}
	ear.until(t, "q")
	user.mu.Lock()
	defer user.mu.Unlock()
	for _, call := range []string{
		"query start", "query end", "batch start", "batch query", "batch end", "copy start", "copy end",
		"prepare start", "prepare end", "connect start", "connect end", "acquire start", "acquire end", "release",
	} {
		if user.calls[call] == 0 {
			t.Errorf("the user's tracer heard of no %s", call)
		}
	}
	for call, n := range user.calls {
		if strings.Contains(call, "another context") {
			t.Errorf("%d times %s", n, call)
		}
	}
}

// TestWakerLosesNone: whoever calls Wake hears of it afterwards, also if a flush was just on its way.
func TestWakerLosesNone(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	waker := sql.NewWaker(pool, time.Millisecond)
	const callers, each = 8, 30
	var wg sync.WaitGroup
	for i := range callers {
		ear := listen(t, pool)
		wg.Go(func() {
			queue := fmt.Sprintf("q%d", i)
			ctx, cancel := contextWithTimeout(t, 30*time.Second)
			defer cancel()
			for n := range each {
				waker.Wake(queue)
				for {
					got, err := ear.conn.WaitForNotification(ctx)
					if err != nil {
						t.Errorf("%s, wake %d was lost: %v", queue, n, err)
						return
					}
					if strings.Contains(got.Payload, `"`+queue+`"`) {
						break
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestWakerCoalesces: many wakes at once are a notification a window.
func TestWakerCoalesces(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	ear := listen(t, pool)
	const window = 20 * time.Millisecond
	waker := sql.NewWaker(pool, window)
	begun := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				waker.Wake("q")
			}
		})
	}
	wg.Wait()
	waker.Wake("end")
	heard := ear.until(t, "end")
	if most := int(time.Since(begun)/window) + 2; len(heard) == 0 || len(heard) > most {
		t.Errorf("40000 wakes were %d notifications, want at most %d", len(heard), most)
	}
	waker.Wake() // nothing
}

// TestNoNotifyInsideATransactionThatWrites: its lock would be held over the flush of the commit, and by
// one transaction of the instance at a time. Only start's p_wake does it, which is asked for.
func TestNoNotifyInsideATransactionThatWrites(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t) // nobody wakes on this one
	ear := listen(t, pool)
	exec(t, pool, `INSERT INTO pgsagaz.definition (name, version, graph) VALUES ('order', 1, '{"steps": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}')`)
	id := query[string](t, pool, `SELECT id::text FROM pgsagaz.start('order', '{}')`)
	lane := query[int64](t, pool, `SELECT id FROM pgsagaz.lane`)
	exec(t, pool, `SELECT pgsagaz.command($1, 'cancel', 'no')`, id)
	exec(t, pool, `DELETE FROM pgsagaz.command`)
	exec(t, pool, sql.LaneBegin, id, lane, "w", 1, "a", []string{"b"}, []string{"do"}, []int32{1}, []string{"default"}, []int16{1})
	exec(t, pool, sql.LaneHandBack, id, lane, 1, false)
	exec(t, pool, sql.SweepDead, "me", time.Second)
	exec(t, pool, sql.SweepHints)
	exec(t, pool, sql.SweepLost)
	exec(t, pool, sql.SweepDeadlines)
	exec(t, pool, `SELECT pg_notify('pgsagaz.river_insert', '{"queue":"end"}')`)
	if heard := ear.until(t, "end"); len(heard) > 0 {
		t.Errorf("woken by the transactions that wrote: %q", heard)
	}
	exec(t, pool, `SELECT pgsagaz.start('order', '{}', p_wake => true)`)
	ear.until(t, "default")
}
