package inbox

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Handler does what a message asks for, in the transaction that records it as taken: all that it writes
// with tx (rows of its own, started sagas, messages for the outbox) commits with that record, or not at all. It
// must do nothing else that cannot be done twice, and leave the transaction's end to the inbox.
//
// An error means that the message was not dealt with: it is handled again, see [Terminal] and [Later]. The
// transaction may be one of several messages, which are then handled again too.
type Handler func(ctx context.Context, tx pgx.Tx, m Message) error

// item is a message on its way through an inbox.
type item struct {
	claim
	delivery Delivery
	dead     int64 // its row in inbox_dead, if it is redriven from there; 0: it is not
	redrive  uuid.UUID
	entry    string   // of that row: the event's id in consumer_inbox
	failed   bool     // at least once, as far as this process knows
	counted  bool     // the attempt to come has been counted, as the attempts-th
	attempts int      // see counted
	passes   int      // how often it has been held for a conflict
	ended    error    // how its handler has failed in a batch, where it need not be tried alone
	verdict  *verdict // nil: it is to be handled
}

func newItem(d Delivery) (*item, error) {
	it := &item{delivery: d}
	it.m = &it.delivery.Message
	var err error
	it.id, it.foreign, err = identity(it.m)
	return it, err
}

// worker handles items in transactions.
type worker struct {
	pool        *pgxpool.Pool
	consumer    string
	handler     Handler
	keepPayload bool
	tracer      trace.Tracer
	payloads    payloads
	timeout     time.Duration // of one handler; 0: none
	batchTime   time.Duration // once a transaction is this old no further handler is begun in it; 0: no limit
	stopping    <-chan struct{}
	idle        string // the statement that limits how long the transaction may be silent; "": the session does
}

// limitIdle makes the statement by which Postgres ends a transaction that is silent for longer than d: a
// process that is stopped inside it must not keep its claims from the others for ever.
func limitIdle(pool *pgxpool.Pool, d time.Duration) string {
	ms, err := strconv.Atoi(pool.Config().ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"])
	if err == nil && ms > 0 && time.Duration(ms)*time.Millisecond <= d {
		return ""
	}
	return strings.Replace(sql.TxIdleLimit, "5000", strconv.FormatInt(d.Milliseconds(), 10), 1)
}

// report is what came of a transaction that was committed.
type report struct {
	outcomes []outcome // of the first of the items; the others have not been touched
	took     []time.Duration
}

// blamed is a failure that one item's handler is to blame for.
type blamed struct {
	item int
	err  error
}

func (b *blamed) Error() string { return b.err.Error() }
func (b *blamed) Unwrap() error { return b.err }

// passingError is a failure that is nobody's fault.
type passingError struct {
	err error
	// conflict: Postgres was there, and would not have this transaction, or the connection was lost while a
	// handler ran. If it happens again and again, it is of these messages after all.
	conflict bool
}

func (e *passingError) Error() string { return e.err.Error() }
func (e *passingError) Unwrap() error { return e.err }

func isPassing(err error) bool { return errors.As(err, new(*passingError)) }

var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}

// run handles items in one transaction:
//
//	BEGIN, claims   one round trip; waits for whoever has claimed one of them and not ended
//	handlers        of those claimed for the first time, one after the other
//	durations, COMMIT
//
// After an error nothing of it has happened, unless it is a *passingError: then that may be unknown, and the
// next run finds out by the claims. A *[blamed] says which handler failed.
func (w *worker) run(ctx context.Context, items []*item) (report, error) {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return report{}, &passingError{err: err}
	}
	defer conn.Release()
	sql.TakeWakes(conn.Conn()) // of a transaction that went before and rolled back
	defer rollback(ctx, conn)

	tx, outcomes, err := w.begin(ctx, conn, items)
	if err != nil {
		return report{}, w.sort(conn, fmt.Errorf("claim: %w", err))
	}
	failpoint.Hit("inbox.claimed")
	if failpoint.Mutant("inbox.claim-committed-first") {
		_, _ = conn.Exec(ctx, "COMMIT AND CHAIN")
	}
	r := report{took: make([]time.Duration, len(items))}
	begun := time.Now()
	for i, it := range items {
		if i > 0 && w.enough(begun) {
			break
		}
		r.outcomes = append(r.outcomes, outcomes[i])
		if outcomes[i] != firstTime {
			continue
		}
		at := time.Now()
		err := w.call(ctx, conn, tx, it)
		failpoint.Hit("inbox.handled")
		r.took[i] = time.Since(at)
		if errors.Is(err, ErrTxEnded) {
			w.disown(ctx, conn, items[i+1:], outcomes[i+1:])
		}
		if err != nil && isPassing(err) {
			return report{}, err
		}
		if err != nil {
			return report{}, &blamed{i, err}
		}
	}
	failpoint.Hit("inbox.commit.before")
	if err := w.commit(ctx, conn, items, outcomes, r); err != nil {
		return report{}, w.sort(conn, fmt.Errorf("commit: %w", err))
	}
	failpoint.Hit("inbox.commit.after")
	if queues := sql.TakeWakes(conn.Conn()); len(queues) > 0 { // the pool has no sql.WakeOnCommit
		_, _ = conn.Exec(ctx, sql.Wake, queues) // a lost wake costs a poll
	}
	return r, nil
}

// enough says whether what is left had better wait for another transaction.
func (w *worker) enough(begun time.Time) bool {
	select {
	case <-w.stopping:
		return true
	default:
		return w.batchTime > 0 && time.Since(begun) >= w.batchTime
	}
}

// begin opens the transaction and claims the items, in one round trip. Of items with the same id the first
// is claimed and the others are duplicates.
func (w *worker) begin(ctx context.Context, conn *pgxpool.Conn, items []*item) (pgx.Tx, []outcome, error) {
	claims := make([]claim, 0, len(items))
	seen := make(map[uuid.UUID]bool, len(items))
	outcomes := make([]outcome, len(items))
	for i, it := range items {
		if seen[it.id] {
			outcomes[i] = duplicate
			continue
		}
		seen[it.id] = true
		if err := w.seal(ctx, conn, it); err != nil {
			return nil, nil, err
		}
		claims = append(claims, it.claim)
	}
	b := &pgx.Batch{}
	b.BeginTx(readCommitted)
	if w.idle != "" {
		b.Queue(w.idle)
	}
	zero := 0
	b.Queue(sql.InboxClaims, claimArguments(w.consumer, claims, &zero, w.keepPayload)...)
	br := conn.SendBatch(ctx, b)
	tx := br.Tx()
	var err error
	for range b.Len() - 1 {
		if err == nil {
			_, err = br.Exec()
		}
	}
	var said []outcome
	if err == nil {
		err = br.QueryRow().Scan(&said)
	}
	if closed := br.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, nil, err
	}
	next := 0
	for i := range outcomes {
		if outcomes[i] == "" {
			outcomes[i] = said[next]
			next++
		}
	}
	return tx, outcomes, nil
}

// seal encodes the payload that is kept with the entry of an item, if it is. A key service that hangs must not hang the lane:
// it may take as long as a handler.
func (w *worker) seal(ctx context.Context, db sql.Querier, it *item) (err error) {
	if !w.keepPayload || it.stored != nil || it.m.Payload == nil {
		return nil
	}
	if w.timeout > 0 {
		bounded, cancel := context.WithTimeout(ctx, w.timeout)
		defer cancel()
		ctx = bounded
	}
	it.stored, err = w.payloads.seal(ctx, db, w.consumer, it.id, it.m)
	return err
}

// call runs the handler, and looks whether the transaction is as it should be afterwards.
func (w *worker) call(ctx context.Context, conn *pgxpool.Conn, tx pgx.Tx, it *item) error {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if w.timeout > 0 {
		bounded, cancel = context.WithTimeout(ctx, w.timeout)
	}
	defer cancel()
	bounded, span := w.span(bounded, it)
	defer span.End()
	bounded = w.payloads.inHandler(bounded, it.m)
	err := protected(func() error { return w.handler(bounded, handlerTx{tx}, *it.m) })
	if err != nil {
		tracing.Fail(bounded, "the handler failed")
	}
	late := bounded.Err() != nil && ctx.Err() == nil
	gone := conn.Conn().IsClosed()
	status := conn.Conn().PgConn().TxStatus()
	switch {
	case ctx.Err() != nil:
		return &passingError{err: ctx.Err()}
	case !gone && errors.As(err, new(*codec.Error)) && passing(err): // also late: a key service that hangs is nobody's failed attempt
		return &passingError{err, true}
	case late && (err != nil || gone):
		return fmt.Errorf("%w (%v): %w", ErrTimeout, w.timeout, errors.Join(err))
	case gone:
		return &passingError{fmt.Errorf("the connection was lost: %w", errors.Join(err)), true}
	case status == 'I':
		return Terminal(errors.Join(ErrTxEnded, err))
	case err != nil && passing(err):
		return &passingError{err, conflicting(err)}
	case err == nil && status != 'T':
		return ErrTxFailed
	}
	return err
}

// protected makes an error of a panic.
func protected(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: string(debug.Stack())}
		}
	}()
	return f()
}

// disown takes back the claims of items that a handler's own COMMIT has committed before their handlers
// were called.
func (w *worker) disown(ctx context.Context, conn *pgxpool.Conn, items []*item, outcomes []outcome) {
	ids := claimed(items, outcomes)
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, sql.InboxUnclaim, w.consumer, ids)
}

// claimed are the ids of those items that were claimed for the first time.
func claimed(items []*item, outcomes []outcome) (ids []pgtype.UUID) {
	for i, it := range items {
		if outcomes[i] == firstTime {
			ids = append(ids, pgtype.UUID{Bytes: it.id, Valid: true})
		}
	}
	return ids
}

// commit ends the transaction in one round trip. An error of any statement skips the COMMIT.
func (w *worker) commit(ctx context.Context, conn *pgxpool.Conn, items []*item, outcomes []outcome, r report) error {
	b := &pgx.Batch{}
	n := len(r.outcomes)
	if rest := claimed(items[n:], outcomes[n:]); len(rest) > 0 {
		b.Queue(sql.InboxUnclaim, w.consumer, rest)
	}
	var slow, mended, redrives []pgtype.UUID
	var ms []int32
	var dead []int64
	for i, it := range items[:n] {
		if took := r.took[i].Milliseconds(); took > 0 {
			slow, ms = append(slow, pgtype.UUID{Bytes: it.id, Valid: true}), append(ms, int32(min(took, 1<<31-1)))
		}
		if it.failed || it.counted {
			mended = append(mended, pgtype.UUID{Bytes: it.id, Valid: true})
		}
		if it.dead != 0 {
			dead, redrives = append(dead, it.dead), append(redrives, pgtype.UUID{Bytes: it.redrive, Valid: true})
		}
	}
	if len(slow) > 0 {
		b.Queue(sql.InboxTook, w.consumer, slow, ms)
	}
	if len(mended) > 0 {
		b.Queue(sql.InboxFailureForget, w.consumer, mended)
	}
	if len(dead) > 0 {
		b.Queue(sql.InboxDeadDone, dead, redrives)
	}
	b.Queue("COMMIT")
	// A COMMIT that was cut off may have happened: better to wait for the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return conn.SendBatch(ctx, b).Close()
}

// sort tells what is nobody's fault from what is the items'.
func (w *worker) sort(conn *pgxpool.Conn, err error) error {
	if passing(err) || conn.Conn().IsClosed() || pgconn.Timeout(err) {
		return &passingError{err, conflicting(err)}
	}
	return err
}

// rollback ends the transaction unless it has ended. It must not be kept from it by a context that has.
func rollback(ctx context.Context, conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() || conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, "ROLLBACK") // on an error the pool drops the connection, which rolls back too
}
