package pgengine

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// stepTx is the transaction a step works in. All of pgx.Tx is the step's, but for its end: savepoints
// (Begin), CopyFrom, SendBatch, Prepare, LargeObjects and Conn are pgx's own.
type stepTx struct{ pgx.Tx }

// Commit refuses: the step's writes are committed with its result.
func (stepTx) Commit(context.Context) error { return ErrTxOwned }

// Rollback refuses. Return an error instead.
func (stepTx) Rollback(context.Context) error { return ErrTxOwned }

// begin opens a transaction whose locks do not outlive a process that stops in it: Postgres ends it when
// it has sent nothing for idle.
func begin(ctx context.Context, conn *pgxpool.Conn, idle time.Duration) (pgx.Tx, error) {
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	b.Queue(sql.TxIdleLimit, strconv.FormatInt(idle.Milliseconds(), 10))
	br := conn.SendBatch(ctx, b)
	tx := br.Tx()
	if err := br.Close(); err != nil {
		return nil, err
	}
	return tx, nil
}

// rollback ends whatever transaction conn is in. It must not be kept from it by a context that has ended.
func rollback(ctx context.Context, conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() || conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, "ROLLBACK") // on an error the pool drops the connection, which rolls back too
}

// ownedTx says whether conn still has the transaction that a step was given, and in working order.
func ownedTx(conn *pgxpool.Conn) error {
	switch conn.Conn().PgConn().TxStatus() {
	case 'T':
		return nil
	case 'E':
		return ErrTxFailed
	default:
		return Terminal(ErrTxEnded)
	}
}
