package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/cli"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// order is a saga of two steps, the first of which publishes.
type order struct {
	Fail bool `json:"fail"` // the second step fails: the first is undone
	Jam  bool `json:"jam"`  // and its undo fails too: the saga is stuck
	Slow bool `json:"slow"` // the second step goes on until its context ends
}

func (order) SagaName() string { return "order" }

func orders() pgengine.Definition {
	type call = pgengine.Call[order]
	reserve := pgengine.TxStep[order, int]{
		Name: "reserve", UndoRetry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do: func(ctx context.Context, tx pgx.Tx, c call) (int, error) {
			return 1, outbox.Publish(ctx, tx, outbox.Message{Topic: "orders", Type: "order.reserved", Payload: []byte("{}")})
		},
		Undo: func(_ context.Context, _ pgx.Tx, c call, _ int) error {
			if c.Input.Jam {
				return errors.New("jammed")
			}
			return nil
		},
	}
	charge := pgengine.Activity[order, int]{
		Name: "charge", After: pgengine.Steps(reserve), Retry: pgengine.NoRetry, Timeout: time.Second,
		Do: func(ctx context.Context, c call) (int, error) {
			switch {
			case c.Input.Slow:
				<-ctx.Done()
				return 0, ctx.Err()
			case c.Input.Fail || c.Input.Jam:
				return 0, pgengine.Terminal(errors.New("no money"))
			}
			return 1, nil
		},
		Undo: func(context.Context, call, int) error { return nil },
	}
	return pgengine.Saga[order]{Version: 1, Output: charge, Steps: pgengine.Steps[order](reserve, charge)}
}

// broker can be told to fail. What it is given goes nowhere, unless it is told where.
type broker struct {
	down, slow atomic.Bool
}

// Publish answers as it was told to. Events of the type "bad" are always rejected.
func (b *broker) Publish(ctx context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	if b.slow.Load() {
		select {
		case <-ctx.Done():
		case <-time.After(700 * time.Millisecond):
		}
	}
	for i, e := range events {
		switch {
		case b.down.Load():
			errs[i] = errors.New("the broker is down")
		case e.Type == "bad":
			errs[i] = &outbox.RejectedError{Err: errors.New("no such type")}
		}
	}
	return errs
}

func (*broker) Close() error { return nil }

// system is a worker as its command runs it, and a consumer as a program of somebody's runs it.
type system struct {
	t        *testing.T
	pool     *pgxpool.Pool
	engine   *pgengine.Engine
	broker   broker
	incoming *memorysub.Broker
	blocked  chan struct{} // closed: handlers go on

	worker, consumer string // where they are scraped
	stopWorker       func()
}

func newSystem(t *testing.T) *system {
	t.Helper()
	url := sqltest.URL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &system{t: t, pool: pool, incoming: memorysub.New(memorysub.Config{}), blocked: make(chan struct{})}
	if s.engine, err = pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{orders()}}); err != nil {
		t.Fatal(err)
	}
	s.runWorker(url)
	s.runConsumer()
	return s
}

// runWorker runs the command worker.
func (s *system) runWorker(url string) {
	s.t.Helper()
	program := cli.Program{Sagas: []pgengine.Definition{orders()}, Publishers: map[string]func(context.Context, string) (outbox.Publisher, error){
		"test": func(context.Context, string) (outbox.Publisher, error) { return &s.broker, nil },
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var out, errs lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- program.Run(ctx, cli.Streams{
			Args: []string{"worker", "--json", "--log-level", "error", "--grace", "1s", "--broker", "test://", "--rejected-attempts", "2",
				"--http-addr", "127.0.0.1:0", "--sweep", "100ms"},
			Getenv: func(name string) string { return map[string]string{"PGSAGAZ_DATABASE_URL": url}[name] },
			Stdin:  strings.NewReader(""), Stdout: &out, Stderr: &errs,
		})
	}()
	s.stopWorker = sync.OnceFunc(func() {
		cancel()
		if c := <-code; c != 0 {
			s.t.Errorf("the worker ended with %d: %s", c, errs.String())
		}
	})
	s.t.Cleanup(s.stopWorker)
	eventually(s.t, "the worker begins", func() bool {
		var event struct{ HTTP string }
		line, _, whole := strings.Cut(out.String(), "\n")
		if !whole || json.Unmarshal([]byte(line), &event) != nil {
			return false
		}
		s.worker = event.HTTP
		return true
	})
	eventually(s.t, "the worker is ready", func() bool {
		response, err := http.Get("http://" + s.worker + "/readyz")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// runConsumer runs a consumer and serves its metrics.
func (s *system) runConsumer() {
	s.t.Helper()
	registry := client.NewRegistry()
	quiet := slog.New(slog.DiscardHandler)
	handler := func(ctx context.Context, _ pgx.Tx, m inbox.Message) error {
		switch m.Type {
		case "bad":
			return inbox.Terminal(errors.New("it can't be read"))
		case "flaky":
			return errors.New("not now")
		case "block":
			select {
			case <-s.blocked:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	consumer, err := inbox.NewConsumer(s.pool, s.incoming.Source("shop"), handler, inbox.Config{
		Name: "shop", Registry: registry, Logger: quiet, Workers: 1, MaxInFlight: 100, Timeout: 5 * time.Minute, MaxAttempts: 1000, Grace: time.Millisecond,
		Backoff: inbox.Backoff{Initial: 100 * time.Millisecond, Max: 100 * time.Millisecond},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- consumer.Run(ctx) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := &http.Server{Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	s.consumer = listener.Addr().String()
	s.t.Cleanup(func() {
		close(s.blocked)
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		_ = server.Close()
	})
}

// start starts orders, each in a transaction of its own.
func (s *system) start(in order, n int, opts *pgengine.StartOptions) {
	s.t.Helper()
	for range n {
		if err := pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error {
			_, err := s.engine.Start(s.t.Context(), tx, in, opts)
			return err
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// publish publishes n messages of a type.
func (s *system) publish(kind string, n int) {
	s.t.Helper()
	messages := make([]outbox.Message, n)
	for i := range messages {
		messages[i] = outbox.Message{Topic: "orders", Type: kind, Payload: []byte("{}")}
	}
	if err := pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error { return outbox.Publish(s.t.Context(), tx, messages...) }); err != nil {
		s.t.Fatal(err)
	}
}

// receive has n messages come in, each twice.
func (s *system) receive(kind string, n int) {
	s.t.Helper()
	for range n {
		m := inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Topic: "in", Type: kind, Payload: []byte("{}")}
		s.incoming.Publish(m, m)
	}
}

// kill leaves n sagas as workers leave them that were killed.
func (s *system) kill(n int) {
	s.t.Helper()
	for range n {
		if err := pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error {
			started, err := s.engine.Start(s.t.Context(), tx, order{}, nil)
			if err != nil {
				return err
			}
			_, err = tx.Exec(s.t.Context(), `UPDATE pgsagaz.lane SET worker = $2, token = 1, step = 'reserve' WHERE saga_id = $1`,
				started.ID, fmt.Sprintf("dead-%s", started.ID))
			return err
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// hold keeps a transaction open until the test ends.
func (s *system) hold() {
	s.t.Helper()
	conn, err := pgx.ConnectConfig(s.t.Context(), s.pool.Config().ConnConfig.Copy())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(s.t.Context(), "BEGIN; SELECT pg_current_xact_id()"); err != nil {
		s.t.Fatal(err)
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
