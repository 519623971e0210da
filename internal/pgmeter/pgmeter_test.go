package pgmeter_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/pgmeter"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { sqltest.Main(m) }

// Each way to send something is counted as what it is.
func TestMeter(t *testing.T) {
	var m pgmeter.Meter
	pool := sqltest.Config(t, func(c *pgxpool.Config) {
		c.MaxConns, c.PingTimeout = 1, time.Minute
		m.Attach(c.ConnConfig)
	})
	one := func() error {
		_, err := pool.Exec(t.Context(), "SELECT 1", pgx.QueryExecModeSimpleProtocol)
		return err
	}
	if err := one(); err != nil { // it connects
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                                      string
		do                                        func() error
		trips, statements, transactions, notifies int64
	}{
		{"a statement", one, 1, 1, 1, 0},
		{"a transaction", func() error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), "SELECT pg_notify('x', '')", pgx.QueryExecModeSimpleProtocol)
				return err
			})
		}, 3, 3, 1, 1},
		{"a transaction in a batch", func() error {
			b := &pgx.Batch{}
			b.Queue("BEGIN")
			b.Queue("SELECT 1")
			b.Queue("COMMIT")
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				return err
			}
			defer conn.Release()
			return conn.SendBatch(t.Context(), b).Close()
		}, 2, 3, 1, 0}, // one to describe what is not prepared yet
		{"a rollback", func() error {
			tx, err := pool.Begin(t.Context())
			if err != nil {
				return err
			}
			return tx.Rollback(t.Context())
		}, 2, 2, 0, 0},
	} {
		trips, statements, transactions, notifies := m.Trips.Load(), m.Statements.Load(), m.Transactions.Load(), m.Notifies.Load()
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		trips, statements, transactions, notifies = m.Trips.Load()-trips, m.Statements.Load()-statements, m.Transactions.Load()-transactions, m.Notifies.Load()-notifies
		if trips != tt.trips || statements != tt.statements || transactions != tt.transactions || notifies != tt.notifies {
			t.Errorf("%s: %d trips, %d statements, %d transactions, %d notifies; want %d, %d, %d, %d", tt.name,
				trips, statements, transactions, notifies, tt.trips, tt.statements, tt.transactions, tt.notifies)
		}
	}
}
