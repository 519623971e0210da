//go:build unix

package integration

import (
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between workers and Postgres, and cuts connections.
type proxy struct {
	url  string       // of Postgres, through the proxy
	mean atomic.Int64 // bytes a connection carries before it is cut; 0: it is not
	cuts atomic.Int64

	mu     sync.Mutex
	target string
	open   map[net.Conn]bool
}

func newProxy(t testing.TB, database string) *proxy {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: u.Host, open: map[net.Conn]bool{}}
	u.Host = listener.Addr().String()
	p.url = u.String()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			go p.carry(c)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.open {
			_ = c.Close()
		}
	})
	return p
}

// cutAfter sets how many bytes, about, each direction of a new connection carries before it is cut; 0: any number.
func (p *proxy) cutAfter(mean int64) {
	p.mean.Store(mean)
	p.mu.Lock()
	defer p.mu.Unlock()
	if mean > 0 { // those that are open were promised more
		for c := range p.open {
			_ = c.Close()
		}
	}
}

// lead sends new connections to another server, and cuts those that lead to the one before.
func (p *proxy) lead(t testing.TB, database string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u.Host
	for c := range p.open {
		_ = c.Close()
	}
}

func (p *proxy) carry(client net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp4", target)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.open[client], p.open[server] = true, true
	p.mu.Unlock()
	end := sync.OnceFunc(func() {
		_ = client.Close()
		_ = server.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, client)
		delete(p.open, server)
	})
	copyAll := func(to, from net.Conn) {
		defer end()
		mean := p.mean.Load()
		if mean == 0 {
			_, _ = io.Copy(to, from)
			return
		}
		limit := 1 + int64(rand.ExpFloat64()*float64(mean))
		if n, err := io.CopyN(to, from, limit); err == nil && n == limit {
			p.cuts.Add(1)
		}
	}
	go copyAll(server, client)
	copyAll(client, server)
}
