package pgengine

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// stepTx is the transaction a step works in. All of pgx.Tx is the step's, but for its end. It begins with
// the step's first statement, in that statement's round trip.
//
// Postgres ends it when it has sent nothing for idle, so that its locks do not outlive a process that stops
// in it.
type stepTx struct {
	ctx    context.Context // of the step, for Conn and LargeObjects, which are given none
	pool   *pgxpool.Pool
	conn   *pgxpool.Conn
	idle   time.Duration // 0: the session has a limit of its own
	tx     pgx.Tx        // nil until it has begun
	saving bool          // the next statement is to come behind a savepoint
	xid    *string       // of the transaction at its last savepoint; nil: it had written nothing
	err    error         // why it could not begin
	closed bool
	dead   bool // the connection had gone when it was given back
}

// newTx gives a connection for a transaction of lane l. The caller must end it with close.
func (e *Engine) newTx(ctx context.Context, l *lane) (*stepTx, error) {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, answered(err)
	}
	idle := l.opts.Idle
	if e.limit > 0 && e.limit <= idle {
		idle = 0
	}
	return &stepTx{ctx: ctx, pool: e.pool, conn: conn, idle: idle}, nil
}

// close rolls back what was not committed, and gives the connection back. It comes before anything that
// needs a connection of its own: steps that wait for one while they hold one would wait for each other.
func (s *stepTx) close() {
	if s.closed {
		return
	}
	s.closed = true
	s.rollback()
	s.dead = s.conn.Conn().IsClosed()
	s.conn.Release()
}

var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}

// beginning is what goes out with the next statement: the BEGIN, or a savepoint.
func (s *stepTx) beginning() *pgx.Batch {
	b := &pgx.Batch{}
	if s.saving {
		b.Queue("SAVEPOINT pgsagaz_step")
		b.Queue(sql.TxID).QueryRow(func(row pgx.Row) error { return row.Scan(&s.xid) })
		return b
	}
	b.BeginTx(readCommitted)
	if s.idle > 0 {
		b.Queue(strings.Replace(sql.TxIdleLimit, "5000", strconv.FormatInt(s.idle.Milliseconds(), 10), 1))
	}
	return b
}

// open begins the transaction unless it has begun.
func (s *stepTx) open(ctx context.Context) (pgx.Tx, error) {
	if s.tx != nil && !s.saving || s.err != nil {
		return s.tx, s.err
	}
	br := s.conn.SendBatch(ctx, s.beginning())
	tx := br.Tx()
	if s.err = br.Close(); s.err != nil {
		return nil, s.err
	}
	s.has(tx)
	return s.tx, nil
}

// has notes that what was to come first has been sent. tx: what it began, if that was a transaction.
func (s *stepTx) has(tx pgx.Tx) {
	if !s.saving {
		s.tx = tx
	}
	s.saving = false
}

// save lets what was done stand if the next step fails: see takeBack.
func (s *stepTx) save() {
	if s.tx != nil { // nothing was sent: nothing to save
		s.saving = true
	}
}

// takeBack rolls back to the last save.
func (s *stepTx) takeBack(ctx context.Context) error {
	conn := s.conn.Conn()
	switch {
	case s.err != nil:
		return s.err
	case s.tx == nil || s.saving: // nothing was sent since
		s.saving = false
		return nil
	case conn.PgConn().TxStatus() != 'I':
		_, err := conn.Exec(ctx, "ROLLBACK TO SAVEPOINT pgsagaz_step")
		return err
	}
	// The step has ended the transaction. Did it commit what the steps before it had done?
	committed := s.xid == nil
	if !committed {
		if err := conn.QueryRow(ctx, sql.TxCommitted, *s.xid).Scan(&committed); err != nil {
			return err
		}
	}
	if !committed {
		return ErrTxEnded
	}
	s.tx = nil
	return nil
}

// first sends a statement together with the BEGIN, and leaves its result to be read. Not every
// statement can: without arguments it may be several, and the simple protocol must carry it.
func (s *stepTx) first(ctx context.Context, query string, args []any) (pgx.BatchResults, bool) {
	if s.tx != nil && !s.saving || s.err != nil || len(args) == 0 {
		return nil, false
	}
	switch args[0].(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID, pgx.QueryRewriter:
		return nil, false
	}
	b := s.beginning()
	b.Queue(query, args...)
	br := s.conn.SendBatch(ctx, b)
	for _, opening := range b.QueuedQueries[:b.Len()-1] { // the BEGIN and the limit, or a savepoint and the id
		switch {
		case s.err != nil:
		case opening.SQL == sql.TxID:
			s.err = br.QueryRow().Scan(&s.xid)
		default:
			_, s.err = br.Exec()
		}
	}
	if !errors.As(s.err, new(pgx.ErrPreprocessingBatch)) {
		s.has(br.Tx())
		return br, true
	}
	// Nothing has begun: the statement does not parse, or its arguments do not fit. Sent the ordinary way it
	// says so itself. In the second case pgx has closed the connection, which is not the database's absence.
	_ = br.Close()
	closed := s.conn.Conn().IsClosed()
	if s.saving && (closed || s.conn.Conn().PgConn().TxStatus() != 'T') { // what came before is lost, and done again
		return nil, false
	}
	s.err = nil
	if closed {
		s.conn.Release()
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			s.err, s.closed, s.dead = answered(err), true, true
			return nil, false
		}
		s.conn = conn
	}
	return nil, false
}

// Exec is pgx's.
func (s *stepTx) Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	if br, ok := s.first(ctx, query, args); ok {
		tag, err := br.Exec()
		if closed := br.Close(); err == nil {
			err = closed
		}
		return tag, err
	}
	tx, err := s.open(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tx.Exec(ctx, query, args...)
}

// Query is pgx's.
func (s *stepTx) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	if br, ok := s.first(ctx, query, args); ok {
		rows, err := br.Query()
		if err != nil {
			_ = br.Close() // rows that come with an error need not be closed
		}
		return &firstRows{Rows: rows, br: br}, err
	}
	tx, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Query(ctx, query, args...)
}

// QueryRow is pgx's.
func (s *stepTx) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	if br, ok := s.first(ctx, query, args); ok {
		rows, _ := br.Query()
		return firstRow{&firstRows{Rows: rows, br: br}}
	}
	tx, err := s.open(ctx)
	if err != nil {
		return failedRow{err}
	}
	return tx.QueryRow(ctx, query, args...)
}

// Begin opens a savepoint, which the step may commit and roll back.
func (s *stepTx) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Begin(ctx)
}

// CopyFrom is pgx's.
func (s *stepTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	tx, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	return tx.CopyFrom(ctx, table, columns, rows)
}

// SendBatch is pgx's.
func (s *stepTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	tx, err := s.open(ctx)
	if err != nil {
		return failedBatch{err}
	}
	return tx.SendBatch(ctx, b)
}

// Prepare is pgx's.
func (s *stepTx) Prepare(ctx context.Context, name, query string) (*pgconn.StatementDescription, error) {
	tx, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Prepare(ctx, name, query)
}

// LargeObjects is pgx's.
func (s *stepTx) LargeObjects() pgx.LargeObjects {
	if tx, err := s.open(s.ctx); err == nil {
		return tx.LargeObjects()
	}
	return pgx.LargeObjects{}
}

// Conn is the connection, inside the transaction. Ending the transaction with it fails the step.
func (s *stepTx) Conn() *pgx.Conn {
	_, _ = s.open(s.ctx) // an error shows with the first statement
	return s.conn.Conn()
}

// Commit refuses: the step's writes are committed with its result.
func (s *stepTx) Commit(context.Context) error { return ErrTxOwned }

// Rollback refuses. Return an error instead.
func (s *stepTx) Rollback(context.Context) error { return ErrTxOwned }

// owned says whether the transaction that a step was given is still open, and in working order.
func (s *stepTx) owned() error {
	if s.err != nil {
		return s.err
	}
	if s.tx == nil {
		return nil
	}
	switch s.conn.Conn().PgConn().TxStatus() {
	case 'T':
		return nil
	case 'E':
		return ErrTxFailed
	default:
		if s.conn.Conn().IsClosed() {
			return &unavailableError{errors.New("the connection was closed")}
		}
		return Terminal(ErrTxEnded)
	}
}

// pipeline sends statements in one round trip, with the BEGIN if it is still to come.
func (s *stepTx) pipeline(ctx context.Context, queue func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	if s.tx == nil {
		b = s.beginning()
	}
	queue(b)
	br := s.conn.SendBatch(ctx, b)
	if s.tx == nil {
		s.tx = br.Tx()
	}
	return br.Close()
}

// commit ends the transaction with statements and the COMMIT, in one round trip. An error of any of them
// skips the COMMIT.
func (s *stepTx) commit(ctx context.Context, queue func(*pgx.Batch)) error {
	b := &pgx.Batch{}
	if s.tx == nil {
		b.BeginTx(readCommitted)
	}
	queue(b)
	b.Queue("COMMIT")
	return s.conn.SendBatch(ctx, b).Close()
}

// rollback ends the transaction unless it has ended. It must not be kept from it by a context that has.
func (s *stepTx) rollback() {
	conn := s.conn.Conn()
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 5*time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, "ROLLBACK") // on an error the pool drops the connection, which rolls back too
}

// lost says whether err is the connection's end, and not the step's doing: a time limit ends it too.
func (s *stepTx) lost(err error) bool {
	gone := s.dead || !s.closed && s.conn.Conn().IsClosed()
	return gone && !errors.As(err, new(*timeoutError))
}

// firstRows are the rows of the statement that went out with the BEGIN; its batch ends with them.
type firstRows struct {
	pgx.Rows
	br  pgx.BatchResults
	err error
}

// Next is pgx's.
func (r *firstRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close is pgx's.
func (r *firstRows) Close() {
	r.Rows.Close()
	r.err = r.br.Close()
}

// Err is pgx's.
func (r *firstRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

type firstRow struct{ rows *firstRows }

// Scan is pgx's.
func (r firstRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

type failedRow struct{ err error }

// Scan says why there is no row.
func (r failedRow) Scan(...any) error { return r.err }

type failedBatch struct{ err error }

func (f failedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, f.err }
func (f failedBatch) Query() (pgx.Rows, error)         { return nil, f.err }
func (f failedBatch) QueryRow() pgx.Row                { return failedRow(f) }
func (f failedBatch) Close() error                     { return f.err }
func (f failedBatch) Tx() pgx.Tx                       { return nil }
