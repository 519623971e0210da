package interleave

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
)

// gate stands between a connection of pgx and Postgres, and hands on what either sends. A statement waits until who it belongs to
// lets it through, and what comes behind it in a pipeline waits for its answer.
type gate struct {
	keeper
	client, server net.Conn
	queue          chan message // from pgx: as much as it likes to send, or it would not come to read

	mu      sync.Mutex
	changed *sync.Cond
	pid     uint32
	status  byte // of the session when it was last ready: I, T, E
	waiting byte // what is waited for: 'C', an answer to a statement; 'Z', that the session is ready; 0: nothing
	failed  bool // what comes up to the next Sync is skipped
	gone    bool
}

// keeper is who decides at a gate.
type keeper interface {
	hold(pid uint32, statement string) // returns when the statement may go
	wrote(pid uint32) bool             // the session has a transaction that has written, or has locked rows
}

// message is one of the protocol. kind 0: the first of a connection, which has none.
type message struct {
	kind byte
	body []byte
}

// gated is a DialFunc whose connections have a gate.
func gated(dial func(ctx context.Context, network, addr string) (net.Conn, error), k keeper) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		server, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		ours, theirs := net.Pipe()
		g := &gate{keeper: k, client: ours, server: server, queue: make(chan message, 1<<12)}
		g.changed = sync.NewCond(&g.mu)
		go g.listen()
		go g.forward()
		go g.answer()
		return theirs, nil
	}
}

// listen takes what pgx sends.
func (g *gate) listen() {
	defer close(g.queue)
	r := bufio.NewReader(g.client)
	m, err := receive(r, false)
	for ; err == nil; m, err = receive(r, true) {
		g.queue <- m
	}
}

// forward hands on what pgx has sent.
func (g *gate) forward() {
	defer g.close()
	texts := map[string]string{} // of prepared statements
	alone := 0                   // statements since the last Sync that no BEGIN has preceded; below 0: one has
	for m := range g.queue {
		var text string
		var wait byte
		switch m.kind {
		case 'P':
			name, rest := cstring(m.body)
			texts[name], _ = cstring(rest)
		case 'B': // not only the Execute that follows: it is the Bind that takes the statement's snapshot
			_, rest := cstring(m.body)
			name, _ := cstring(rest)
			text = texts[name]
		case 'E':
			wait = 'C'
		case 'Q':
			text, _ = cstring(m.body)
			wait = 'Z'
		case 'S':
			// What was sent without a transaction is one, up to here. Of one that has only read nobody notices the end.
			if alone > 0 && !g.skips() && g.wrote(g.backend()) {
				g.hold(g.backend(), "COMMIT, of what was sent without a BEGIN")
			}
			alone, wait = 0, 'Z'
		}
		if text != "" {
			switch {
			case begins(text):
				alone = -1 << 20
			case g.in('I'):
				alone++
			}
			if g.counts(text) {
				g.hold(g.backend(), text)
			}
		}
		if !g.send(m, wait) {
			return
		}
	}
}

// send sends a message, and waits for its answer, if it has one that others depend on.
func (g *gate) send(m message, wait byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed && wait == 'C' {
		wait = 0 // it is skipped
	}
	g.waiting = wait
	g.mu.Unlock()
	out := m.bytes()
	if wait == 'C' {
		out = append(out, message{kind: 'H'}.bytes()...) // or Postgres would keep the answer until the Sync
	}
	_, err := g.server.Write(out)
	g.mu.Lock()
	for err == nil && g.waiting != 0 && !g.gone {
		g.changed.Wait()
	}
	return err == nil && !g.gone
}

// answer hands on what Postgres sends, and looks what it is.
func (g *gate) answer() {
	defer g.close()
	r := bufio.NewReader(g.server)
	for {
		m, err := receive(r, true)
		if err != nil {
			return
		}
		g.mu.Lock()
		switch m.kind {
		case 'K':
			g.pid = binary.BigEndian.Uint32(m.body)
		case 'C', 'I', 's': // done, empty, suspended
			if g.waiting == 'C' {
				g.waiting = 0
			}
		case 'E':
			g.failed = true
			if g.waiting == 'C' {
				g.waiting = 0
			}
		case 'Z':
			g.failed, g.status, g.waiting = false, m.body[0], 0
		}
		g.changed.Broadcast()
		g.mu.Unlock()
		if _, err := g.client.Write(m.bytes()); err != nil {
			return
		}
	}
}

func (g *gate) close() {
	_ = g.client.Close()
	_ = g.server.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	g.changed.Broadcast()
}

func (g *gate) backend() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid
}

func (g *gate) in(status byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status == status
}

func (g *gate) skips() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// counts: others may notice that the statement is executed.
func (g *gate) counts(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.failed && g.status != 'E' && !begins(text) && !settings(text) // a failed transaction has let go of its locks
}

func begins(text string) bool { return hasWord(text, "begin") || hasWord(text, "start transaction") }

// settings: a statement that concerns its session alone, or nothing.
func settings(text string) bool {
	return hasWord(text, "set") || hasWord(text, "select set_config") || strings.HasPrefix(text, "-- ping") || hasWord(text, "savepoint")
}

func hasWord(text, word string) bool {
	text = gist(text)
	return len(text) >= len(word) && strings.EqualFold(text[:len(word)], word) &&
		(len(text) == len(word) || strings.ContainsRune(" (;\n", rune(text[len(word)])))
}

// gist is a statement without the comments that it begins with.
func gist(text string) string {
	for {
		text = strings.TrimSpace(text)
		if !strings.HasPrefix(text, "--") {
			return text
		}
		_, rest, found := strings.Cut(text, "\n")
		if !found {
			return text
		}
		text = rest
	}
}

func receive(r io.Reader, typed bool) (m message, err error) {
	var head [5]byte
	from := 1
	if typed {
		from = 0
	}
	if _, err = io.ReadFull(r, head[from:]); err != nil {
		return m, err
	}
	m.kind, m.body = head[0], make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err = io.ReadFull(r, m.body)
	return m, err
}

func (m message) bytes() []byte {
	var out []byte
	if m.kind != 0 {
		out = append(out, m.kind)
	}
	out = binary.BigEndian.AppendUint32(out, uint32(len(m.body)+4))
	return append(out, m.body...)
}

func cstring(b []byte) (s string, rest []byte) {
	text, rest, _ := bytes.Cut(b, []byte{0})
	return string(text), rest
}
