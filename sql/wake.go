package sql

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// OutboxQueue is what the name of a queue begins with that stands for a bucket of the outbox: its number follows.
const OutboxQueue = "outbox:"

// Where a connection's CustomData keeps the queues to wake once its transaction commits, and the waker of
// the pool that the connection belongs to.
const (
	wakeKey  = "pgsagaz.wake"
	wakerKey = "pgsagaz.waker"
)

// WakeLater leaves word on tx's connection that queue has something to do once tx has committed. A
// connection with [WakeOnCommit], [InTx], and the engine's own commits act on it; otherwise the poll does.
func WakeLater(conn *pgx.Conn, queue string) {
	data := conn.PgConn().CustomData()
	queues, _ := data[wakeKey].(map[string]bool)
	if queues == nil {
		queues = map[string]bool{}
		data[wakeKey] = queues
	}
	queues[queue] = true
}

// TakeWakes returns what WakeLater left on conn, and forgets it.
func TakeWakes(conn *pgx.Conn) []string {
	data := conn.PgConn().CustomData()
	queues, _ := data[wakeKey].(map[string]bool)
	if len(queues) == 0 {
		return nil
	}
	delete(data, wakeKey)
	list := make([]string, 0, len(queues))
	for q := range queues {
		list = append(list, q)
	}
	return list
}

// InTx runs f in a transaction of pool and, once it has committed, wakes the workers for what f started.
// It is pgx.BeginFunc for pools without [WakeOnCommit].
func InTx(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	TakeWakes(conn.Conn()) // of a transaction that went before and rolled back
	if err := pgx.BeginFunc(ctx, conn, f); err != nil {
		TakeWakes(conn.Conn())
		return err
	}
	if queues := TakeWakes(conn.Conn()); len(queues) > 0 {
		// A lost wake costs one poll, so that its error is nobody's.
		_, _ = conn.Exec(ctx, Wake, queues)
	}
	return nil
}

// WakeOnCommit makes every connection of a pool that is built from config wake the workers when a
// transaction that started or asked something of a saga has committed, whoever commits it. It composes
// with the tracer that config has. Call it before pgxpool.NewWithConfig.
func WakeOnCommit(config *pgxpool.Config) {
	config.ConnConfig.Tracer = &commitTracer{next: config.ConnConfig.Tracer, wakers: map[*pgxpool.Pool]*Waker{}}
}

// Waker sends NOTIFY for queues after the commits that asked for it: at once when it has been quiet, and
// otherwise at most once a window. It is trailing-edge: a wake that comes while one is being sent is sent
// again afterwards, so none is lost. It starts nothing that lasts: a timer fires once for each flush.
type Waker struct {
	pool *pgxpool.Pool

	mu            sync.Mutex
	queues, relay windowed // River's queues; the outbox's, whose relays poll fast anyway while they are busy
}

// windowed are wakes of one kind.
type windowed struct {
	window  time.Duration
	queues  map[string]bool // to be sent with the next flush
	pending bool            // a flush is on its way
	last    time.Time       // when the last one ended
}

// NewWaker makes a waker that sends through pool. window 0 means 3 ms; for the outbox it is three times that.
func NewWaker(pool *pgxpool.Pool, window time.Duration) *Waker {
	if window == 0 {
		window = 3 * time.Millisecond
	}
	return &Waker{pool: pool, queues: windowed{window: window, queues: map[string]bool{}}, relay: windowed{window: 3 * window, queues: map[string]bool{}}}
}

// Wake tells the workers of queues, soon. It does not wait.
func (w *Waker) Wake(queues ...string) {
	if len(queues) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range queues {
		if strings.HasPrefix(q, OutboxQueue) {
			w.relay.queues[q] = true
		} else {
			w.queues.queues[q] = true
		}
	}
	w.schedule(&w.queues)
	w.schedule(&w.relay)
}

// schedule is called with the lock held.
func (w *Waker) schedule(k *windowed) {
	if k.pending || len(k.queues) == 0 {
		return
	}
	k.pending = true
	time.AfterFunc(max(0, k.window-time.Since(k.last)), func() { w.flush(k) })
}

func (w *Waker) flush(k *windowed) {
	w.mu.Lock()
	queues := slices.Collect(maps.Keys(k.queues))
	clear(k.queues)
	w.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = w.pool.Exec(ctx, Wake, queues) // one that is lost costs a poll, and is nobody's error

	w.mu.Lock()
	defer w.mu.Unlock()
	k.pending, k.last = false, time.Now()
	if failpoint.Mutant("wake.leading-edge") {
		clear(k.queues)
	}
	w.schedule(k)
}

// commitTracer sees the COMMIT that ends a transaction, sent alone or in a batch.
type commitTracer struct {
	next pgx.QueryTracer // the user's own; may be nil

	mu     sync.Mutex
	wakers map[*pgxpool.Pool]*Waker // one a pool; a copied config makes several pools
	local  []*listener              // those in this process; a new slice with each change
}

// listener is told of wakes first, and returns those it does not see to.
type listener struct {
	f func(queues []string) []string
}

// OnCommit has f told of what transactions of a pool with [WakeOnCommit] wake, right after their commits
// and on their goroutines. f returns the queues that it does not see to itself: NOTIFY is sent for those.
// ok is false if config was not given to WakeOnCommit.
func OnCommit(config *pgxpool.Config, f func(queues []string) (rest []string)) (remove func(), ok bool) {
	t, ok := config.ConnConfig.Tracer.(*commitTracer)
	if !ok {
		return func() {}, false
	}
	l := &listener{f}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.local = append(slices.Clip(t.local), l)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.local = slices.DeleteFunc(slices.Clone(t.local), func(other *listener) bool { return other == l })
	}, true
}

// listened returns the queues that nobody in this process sees to.
func (t *commitTracer) listened(queues []string) []string {
	t.mu.Lock()
	local := t.local
	t.mu.Unlock()
	for _, l := range local {
		if queues = l.f(queues); len(queues) == 0 {
			break
		}
	}
	return queues
}

// commitTracer passes on whatever else the user's tracer can do.
var (
	_ pgx.QueryTracer       = (*commitTracer)(nil)
	_ pgx.BatchTracer       = (*commitTracer)(nil)
	_ pgx.CopyFromTracer    = (*commitTracer)(nil)
	_ pgx.PrepareTracer     = (*commitTracer)(nil)
	_ pgx.ConnectTracer     = (*commitTracer)(nil)
	_ pgxpool.AcquireTracer = (*commitTracer)(nil)
	_ pgxpool.ReleaseTracer = (*commitTracer)(nil)
)

// committed fires the wakes of conn's transaction. The tag of a COMMIT that rolled back is ROLLBACK.
func (t *commitTracer) committed(conn *pgx.Conn, tag pgconn.CommandTag) {
	if tag.String() != "COMMIT" && !failpoint.Mutant("wake.before-the-commit") {
		return
	}
	if queues := t.listened(TakeWakes(conn)); len(queues) > 0 {
		if waker, ok := conn.PgConn().CustomData()[wakerKey].(*Waker); ok {
			waker.Wake(queues...)
		}
	}
}

// ended forgets the wakes of a transaction that ended without a commit: by a ROLLBACK, or by a COMMIT that
// failed. After ROLLBACK TO a savepoint it goes on, and its wakes stay.
func (t *commitTracer) ended(conn *pgx.Conn) {
	if conn.PgConn().TxStatus() == 'I' {
		TakeWakes(conn)
	}
}

func (t *commitTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if t.next != nil {
		return t.next.TraceQueryStart(ctx, conn, data)
	}
	return ctx
}

func (t *commitTracer) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err == nil {
		t.committed(conn, data.CommandTag)
	}
	t.ended(conn)
	if t.next != nil {
		t.next.TraceQueryEnd(ctx, conn, data)
	}
}

func (t *commitTracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if next, ok := t.next.(pgx.BatchTracer); ok {
		return next.TraceBatchStart(ctx, conn, data)
	}
	return ctx
}

func (t *commitTracer) TraceBatchQuery(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	if data.Err == nil {
		t.committed(conn, data.CommandTag)
	}
	if next, ok := t.next.(pgx.BatchTracer); ok {
		next.TraceBatchQuery(ctx, conn, data)
	}
}

func (t *commitTracer) TraceBatchEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchEndData) {
	t.ended(conn)
	if next, ok := t.next.(pgx.BatchTracer); ok {
		next.TraceBatchEnd(ctx, conn, data)
	}
}

func (t *commitTracer) TraceCopyFromStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	if next, ok := t.next.(pgx.CopyFromTracer); ok {
		return next.TraceCopyFromStart(ctx, conn, data)
	}
	return ctx
}

func (t *commitTracer) TraceCopyFromEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceCopyFromEndData) {
	if next, ok := t.next.(pgx.CopyFromTracer); ok {
		next.TraceCopyFromEnd(ctx, conn, data)
	}
}

func (t *commitTracer) TracePrepareStart(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareStartData) context.Context {
	if next, ok := t.next.(pgx.PrepareTracer); ok {
		return next.TracePrepareStart(ctx, conn, data)
	}
	return ctx
}

func (t *commitTracer) TracePrepareEnd(ctx context.Context, conn *pgx.Conn, data pgx.TracePrepareEndData) {
	if next, ok := t.next.(pgx.PrepareTracer); ok {
		next.TracePrepareEnd(ctx, conn, data)
	}
}

func (t *commitTracer) TraceConnectStart(ctx context.Context, data pgx.TraceConnectStartData) context.Context {
	if next, ok := t.next.(pgx.ConnectTracer); ok {
		return next.TraceConnectStart(ctx, data)
	}
	return ctx
}

func (t *commitTracer) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	if next, ok := t.next.(pgx.ConnectTracer); ok {
		next.TraceConnectEnd(ctx, data)
	}
}

func (t *commitTracer) TraceAcquireStart(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireStartData) context.Context {
	if next, ok := t.next.(pgxpool.AcquireTracer); ok {
		return next.TraceAcquireStart(ctx, pool, data)
	}
	return ctx
}

// TraceAcquireEnd tells the connection which pool it belongs to, and so where its wakes are sent.
func (t *commitTracer) TraceAcquireEnd(ctx context.Context, pool *pgxpool.Pool, data pgxpool.TraceAcquireEndData) {
	if data.Conn != nil {
		if custom := data.Conn.PgConn().CustomData(); custom[wakerKey] == nil {
			t.mu.Lock()
			if t.wakers[pool] == nil {
				t.wakers[pool] = NewWaker(pool, 0)
			}
			custom[wakerKey] = t.wakers[pool]
			t.mu.Unlock()
		}
	}
	if next, ok := t.next.(pgxpool.AcquireTracer); ok {
		next.TraceAcquireEnd(ctx, pool, data)
	}
}

func (t *commitTracer) TraceRelease(pool *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	if next, ok := t.next.(pgxpool.ReleaseTracer); ok {
		next.TraceRelease(pool, data)
	}
}
