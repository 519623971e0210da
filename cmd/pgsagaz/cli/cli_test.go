package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// A demo with --kill runs this program again, which here is the test binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "demo" {
		os.Exit(Program{Demo: true}.Main())
	}
	os.Exit(sqltest.Main(m))
}

// result is what a program did.
type result struct {
	code           int
	stdout, stderr string
}

type ticket struct {
	ID   string `json:"id"`
	Fail bool   `json:"fail"` // the second step fails
	Hold bool   `json:"hold"` // the second step waits for the end of its context, or of the hold
}

func (ticket) SagaName() string { return "ticket" }

// theatre is a program with a saga that the test holds in its hands.
type theatre struct {
	t      *testing.T
	env    map[string]string
	broken atomic.Bool // the undo of book fails for good
	held   chan struct{}
	sagas  []pgengine.Definition // beside the tickets
}

func newTheatre(t *testing.T, url string) *theatre {
	return &theatre{t: t, env: map[string]string{"PGSAGAZ_DATABASE_URL": url}, held: make(chan struct{})}
}

func (h *theatre) program() Program {
	type call = pgengine.Call[ticket]
	book := pgengine.TxStep[ticket, string]{
		Name: "book", UndoRetry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do: func(context.Context, pgx.Tx, call) (string, error) { return "seat 7", nil },
		Undo: func(context.Context, pgx.Tx, call, string) error {
			if h.broken.Load() {
				return errors.New("the box office is closed")
			}
			return nil
		},
	}
	pay := pgengine.Activity[ticket, int]{
		Name: "pay", After: pgengine.Steps(book), Retry: pgengine.NoRetry,
		Do: func(ctx context.Context, c call) (int, error) {
			if c.Input.Hold {
				select {
				case <-ctx.Done():
					return 0, ctx.Err()
				case <-h.held:
				}
			}
			if c.Input.Fail {
				return 0, pgengine.Terminal(errors.New("no money"))
			}
			return 42, nil
		},
		Undo: func(context.Context, call, int) error { return nil },
	}
	return Program{Demo: true, Sagas: append([]pgengine.Definition{
		pgengine.Saga[ticket]{Version: 1, Output: pay, Steps: pgengine.Steps[ticket](book, pay)}, h.tour(),
	}, h.sagas...)}
}

func (h *theatre) run(args ...string) result { return h.runWith(h.t.Context(), "", args...) }

func (h *theatre) runWith(ctx context.Context, stdin string, args ...string) result {
	h.t.Helper()
	var out, errs lockedBuffer
	code := h.program().Run(ctx, Streams{
		Args: args, Getenv: func(k string) string { return h.env[k] },
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
	})
	return result{code, out.String(), errs.String()}
}

// ok runs a command that must succeed, with --json, and reads what it printed into v.
func (h *theatre) ok(v any, args ...string) {
	h.t.Helper()
	h.exits(exitOK, v, args...)
}

func (h *theatre) exits(code int, v any, args ...string) {
	h.t.Helper()
	r := h.run(append(args, "--json")...)
	if r.code != code {
		h.t.Fatalf("pgsagaz %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), v); err != nil {
		h.t.Fatalf("pgsagaz %s: %v in %q", strings.Join(args, " "), err, r.stdout)
	}
}

// text runs a command that must succeed, and returns what it shows people.
func (h *theatre) text(args ...string) string {
	h.t.Helper()
	r := h.run(args...)
	if r.code != exitOK {
		h.t.Fatalf("pgsagaz %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// work runs the command worker until the returned function is called, which returns what it did.
func (h *theatre) work(args ...string) (stop func() result) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan result, 1)
	go func() {
		done <- h.runWith(ctx, "", append([]string{"worker", "--json", "--grace", "1s", "--log-level", "error"}, args...)...)
	}()
	stop = sync.OnceValue(func() result { cancel(); return <-done })
	h.t.Cleanup(func() { stop() })
	h.eventually(func() bool { return strings.Contains(h.run("saga", "start", "ticket", "--input", "{}").stdout, "-") })
	return stop
}

func (h *theatre) eventually(what func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !what(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("it never happened")
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func contains(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}
