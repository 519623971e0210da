// Package pgmeter counts what connections to Postgres cost, as their client sees it: round trips on the wire, statements and
// transactions by a tracer.
package pgmeter

import (
	"context"
	"net"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// Meter counts for all connections whose config was given to Attach. The zero value is ready.
type Meter struct {
	// Trips are turns from writing to reading.
	Trips atomic.Int64
	// Statements are those of all kinds, BEGIN and COMMIT among them.
	Statements atomic.Int64
	// Transactions have been committed; a statement outside of one is one of its own.
	Transactions atomic.Int64
	// Notifies were sent inside transactions.
	Notifies atomic.Int64
}

// Attach has the connections of config counted. It replaces the config's tracer.
func (m *Meter) Attach(config *pgx.ConnConfig) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &meteredConn{Conn: conn, m: m}, nil
	}
	config.Tracer = tracer{m}
}

type meteredConn struct {
	net.Conn
	m     *Meter
	wrote atomic.Bool
}

func (c *meteredConn) Write(b []byte) (int, error) {
	c.wrote.Store(true)
	return c.Conn.Write(b)
}

func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.wrote.Swap(false) {
		c.m.Trips.Add(1)
	}
	return n, err
}

type tracer struct{ m *Meter }

var _ pgx.BatchTracer = tracer{}

func (t tracer) begin(conn *pgx.Conn, statements ...string) {
	t.m.Statements.Add(int64(len(statements)))
	whole := strings.ToLower(strings.Join(statements, ";"))
	idle, begins := conn.PgConn().TxStatus() == 'I', strings.HasPrefix(whole, "begin")
	if idle && !begins && !strings.HasPrefix(whole, "select 1 /* ping") {
		t.m.Transactions.Add(1)
	}
	if strings.Contains(whole, "pg_notify") && (!idle || begins) {
		t.m.Notifies.Add(1)
	}
}

func (t tracer) end(command string) {
	if command == "COMMIT" {
		t.m.Transactions.Add(1)
	}
}

func (t tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	t.begin(conn, d.SQL)
	return ctx
}

func (t tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	t.end(d.CommandTag.String())
}

func (t tracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	var all []string
	for _, q := range d.Batch.QueuedQueries {
		all = append(all, q.SQL)
	}
	t.begin(conn, all...)
	return ctx
}

func (t tracer) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	t.end(d.CommandTag.String())
}

func (t tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}
