package brokertest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// ErrDown is the error of a dial while the network is down.
var ErrDown = errors.New("brokertest: the network is down")

// Net makes connections, and breaks them.
type Net struct {
	mu    sync.Mutex
	down  bool
	mute  bool
	open  map[*conn]bool
	dials int
}

// Dial connects, unless the network is down.
func (n *Net) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if n.isDown() {
		return nil, ErrDown
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = map[*conn]bool{}
	}
	n.dials++
	wrapped := &conn{Conn: c, net: n}
	n.open[wrapped] = true
	return wrapped, nil
}

func (n *Net) isDown() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.down
}

// Dials is how often a connection was made.
func (n *Net) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// Cut ends all connections, abruptly.
func (n *Net) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.open {
		_ = c.Conn.Close()
	}
	clear(n.open)
}

// Down ends all connections, and refuses others until Up.
func (n *Net) Down() {
	n.mu.Lock()
	n.down = true
	n.mu.Unlock()
	n.Cut()
}

// Up ends what Down or Mute began.
func (n *Net) Up() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down, n.mute = false, false
}

// Mute loses the broker's answers until Up: what is asked for happens, and the connection breaks in place of the answer.
func (n *Net) Mute() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute = true
}

type conn struct {
	net.Conn
	net *Net
}

func (c *conn) Read(b []byte) (int, error) {
	read, err := c.Conn.Read(b)
	c.net.mu.Lock()
	mute := c.net.mute
	c.net.mu.Unlock()
	if mute && read > 0 {
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return read, err
}

func (c *conn) Close() error {
	c.net.mu.Lock()
	delete(c.net.open, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// Networks are the ways of several clients to one broker, by whom they belong to.
type Networks struct {
	mu sync.Mutex
	of map[any]*Net
}

// Keep notes whose way n is.
func (ns *Networks) Keep(owner any, n *Net) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.of == nil {
		ns.of = map[any]*Net{}
	}
	ns.of[owner] = n
}

// Down ends owner's connections for good, as the death of its process would.
func (ns *Networks) Down(owner any) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.of[owner].Down()
}

// Cut ends everybody's connections.
func (ns *Networks) Cut() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, n := range ns.of {
		n.Cut()
	}
}
