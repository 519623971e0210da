package outbox_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql"
)

// forgetful is a connection that dies with the answer to the first taking of buckets: the server has done it, and the relay does not hear so.
type forgetful struct {
	net.Conn
	asked *atomic.Int32 // by all connections: 1: the statement is prepared, 2: it runs, 3: the answer is lost
}

func (f forgetful) Write(b []byte) (int, error) {
	if !f.asked.CompareAndSwap(1, 2) && bytes.Contains(b, []byte(sql.OutboxTake)) {
		f.asked.CompareAndSwap(0, 1)
	}
	return f.Conn.Write(b)
}

func (f forgetful) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.asked.CompareAndSwap(2, 3) {
		_ = f.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// TestTheAnswerToATakingIsLost: buckets that are a relay's on record, although it has not heard so, are published by it.
func TestTheAnswerToATakingIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	direct := w.pool.Config().ConnConfig
	var asked atomic.Int32
	direct.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return forgetful{conn, &asked}, err
	}
	w.publish(message("a", 1), message("b", 1))
	w.relay(w.broker, outbox.Config{Direct: direct})
	w.arrived(2)
	if asked.Load() != 3 {
		t.Error("no answer was lost: this tests nothing")
	}
	if n := query[int](w, `SELECT count(*) FROM pgsagaz.outbox_relay`); n != 1 {
		t.Errorf("%d relays: it was another one that published them", n)
	}
}
