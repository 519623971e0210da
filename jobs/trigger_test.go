package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type order struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
}

func (order) SagaName() string { return "order" }

type invoice order

func (invoice) SagaName() string { return "invoice" }

// trip waits for its approval.
type trip struct {
	ID string `json:"id"`
}

func (trip) SagaName() string { return "trip" }

type approval struct {
	Trip string `json:"trip"`
	By   string `json:"by"`
}

func (approval) SignalName() string { return "approval" }

// running counts how many steps run at once.
type running struct{ now, most atomic.Int64 }

// trade is an engine with the sagas order and invoice, one step each.
func trade(t testing.TB, pool *pgxpool.Pool, r *running) *pgengine.Engine {
	t.Helper()
	e, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.DiscardHandler), Sagas: []pgengine.Definition{
		pgengine.Saga[order]{Version: 1, Steps: pgengine.Steps[order](pgengine.Activity[order, int]{
			Name: "pay", Do: func(context.Context, pgengine.Call[order]) (int, error) {
				n := r.now.Add(1)
				defer r.now.Add(-1)
				for most := r.most.Load(); n > most && !r.most.CompareAndSwap(most, n); most = r.most.Load() {
				}
				time.Sleep(10 * time.Millisecond)
				return 0, nil
			}, Undo: func(context.Context, pgengine.Call[order], int) error { return nil },
		})},
		pgengine.Saga[invoice]{Version: 1, Steps: pgengine.Steps[invoice](pgengine.TxStep[invoice, int]{
			Name: "print", Do: func(context.Context, pgx.Tx, pgengine.Call[invoice]) (int, error) { return 0, nil },
		})},
		pgengine.Saga[trip]{Version: 1, Steps: pgengine.Steps[trip](pgengine.Await[trip, approval]{Name: "approved"})},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// background runs something until the test ends.
func background(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func consume(t testing.TB, pool *pgxpool.Pool, source inbox.Source, h inbox.Handler) {
	t.Helper()
	c, err := inbox.NewConsumer(pool, source, h, inbox.Config{
		Name: "orders", MaxAttempts: 3, Logger: slog.New(slog.DiscardHandler), Backoff: inbox.Backoff{Initial: time.Millisecond, Max: 10 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
}

func drain(t testing.TB, b *memorysub.Broker) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); b.Waiting("orders") > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages wait", b.Waiting("orders"))
		}
	}
}

func sagas(t testing.TB, pool *pgxpool.Pool, name string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.saga WHERE name = $1`, name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func event(kind string, v any) inbox.Message {
	payload, _ := json.Marshal(v)
	return inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Topic: "shop", Type: kind, Payload: payload,
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
}

// TestStartOn: a saga an event, in the transaction that records it.
func TestStartOn(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := trade(t, pool, &running{})
	b := memorysub.New(memorysub.Config{})
	fails := map[string]bool{}
	start := jobs.StartOn(e, jobs.FromJSON[order], &jobs.TriggerOptions{Tags: []string{"shop"}, Timeout: time.Hour})
	bill := jobs.StartOn(e, func(m inbox.Message) (invoice, error) {
		in, err := jobs.FromJSON[invoice](m)
		if err == nil && in.Cents == 0 {
			err = fmt.Errorf("free: %w", jobs.ErrIgnore)
		}
		return in, err
	}, nil)
	var mu sync.Mutex
	consume(t, pool, b.Source("orders"), inbox.ByType(map[string]inbox.Handler{
		"placed": func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
			if err := errors.Join(start(ctx, tx, m), bill(ctx, tx, m)); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if !fails[m.ID] {
				fails[m.ID] = true
				return errors.New("the sagas go with the transaction")
			}
			return nil
		},
	}, nil))
	good, free, bad := event("placed", order{"1", 100}), event("placed", order{"2", 0}), event("placed", "no order")
	b.Publish(good, good, free, bad, good)
	drain(t, b)
	b.Publish(good)
	drain(t, b)
	// Both sagas of one event: keys are a saga's own.
	if o, i := sagas(t, pool, "order"), sagas(t, pool, "invoice"); o != 2 || i != 1 {
		t.Errorf("%d orders, %d invoices", o, i)
	}
	dead, err := inbox.DeadLetters(t.Context(), pool, inbox.DeadFilter{})
	if err != nil || len(dead) != 1 || dead[0].Reason != "terminal" || !strings.Contains(dead[0].Error, "no input of saga order") {
		t.Errorf("%+v, %v", dead, err)
	}
	var key, trace, tag string
	var deadline time.Time
	if err := pool.QueryRow(t.Context(), `SELECT key, traceparent, tags[1], deadline FROM pgsagaz.saga WHERE name = 'order' AND input::jsonb ->> 'id' = '1'`).Scan(&key, &trace, &tag, &deadline); err != nil {
		t.Fatal(err)
	}
	if key != "event "+good.ID || trace != good.TraceParent || tag != "shop" || time.Until(deadline) > time.Hour {
		t.Errorf("key %q, trace %q, tag %q, deadline %v", key, trace, tag, deadline)
	}
}

// TestSignalOn: one event starts a saga, another tells it something, in whatever order they come.
func TestSignalOn(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := trade(t, pool, &running{})
	worker, err := jobs.NewWorker(e, jobs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	background(t, worker.Run)
	b := memorysub.New(memorysub.Config{})
	consume(t, pool, b.Source("orders"), inbox.ByType(map[string]inbox.Handler{
		"booked": jobs.StartOn(e, jobs.FromJSON[trip], &jobs.TriggerOptions{Key: func(m inbox.Message) string { return "trip " + m.Key }}),
		"approved": jobs.SignalOn(e, func(m inbox.Message) (pgengine.Target, approval, error) {
			var a approval
			if err := json.Unmarshal(m.Payload, &a); err != nil {
				return pgengine.Target{}, a, inbox.Terminal(err)
			}
			if a.By == "nobody" {
				return pgengine.Target{}, a, jobs.ErrIgnore
			}
			return pgengine.Key[trip]("trip " + a.Trip), a, nil
		}),
	}, nil))
	booked := event("booked", trip{"T1"})
	booked.Key = "T1"
	early := event("approved", approval{"T2", "me"}) // of a trip that nobody books: it is given up in the end
	b.Publish(booked, event("approved", approval{"T1", "nobody"}), early)
	drain(t, b)
	approved := event("approved", approval{"T1", "me"})
	b.Publish(approved, approved)
	drain(t, b)
	var id string
	if err := pool.QueryRow(t.Context(), `SELECT id::text FROM pgsagaz.saga WHERE name = 'trip' AND key = 'trip T1'`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if s, err := e.Wait(bounded, id); err != nil || s.State != pgengine.Completed {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := e.Get(bounded, id); err != nil || len(s.Signals) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	b.Publish(event("approved", approval{"T1", "me too"})) // it has ended
	drain(t, b)
	dead, err := inbox.DeadLetters(t.Context(), pool, inbox.DeadFilter{})
	if err != nil || len(dead) != 1 || dead[0].Message.ID != early.ID || dead[0].Reason != "attempts" {
		t.Errorf("%+v, %v", dead, err)
	}
}

// Ten concurrent events of one key made six executions in sagaz, which looked first and wrote later.
func TestSagazStartedSixSagasOfTenEventsAtOnce(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := trade(t, pool, &running{})
	var urls []string
	for range 2 { // processes
		w, err := inbox.NewWebhook(inbox.WebhookConfig{Message: func(r *http.Request, body []byte) (inbox.Message, error) {
			return inbox.Message{ID: r.Header.Get("X-Delivery")}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(w)
		t.Cleanup(server.Close)
		urls = append(urls, server.URL)
		consume(t, pool, w, jobs.StartOn(e, jobs.FromJSON[order], nil))
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, urls[i%2], strings.NewReader(`{"id": "1", "cents": 5}`))
			r.Header.Set("X-Delivery", "evt-1")
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("status %d", response.StatusCode)
			}
		})
	}
	wg.Wait()
	if n := sagas(t, pool, "order"); n != 1 {
		t.Errorf("%d sagas", n)
	}
}

// Events beyond the limit were dropped in sagaz. Here they wait.
func TestSagazDroppedEventsOverTheLimit(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	var r running
	e := trade(t, pool, &r)
	worker, err := jobs.NewWorker(e, jobs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	background(t, worker.Run)
	b := memorysub.New(memorysub.Config{})
	for range 2 {
		consume(t, pool, b.Source("orders"), jobs.StartOn(e, jobs.FromJSON[order], &jobs.TriggerOptions{MaxRunning: 2, Pause: 20 * time.Millisecond}))
	}
	for i := range 12 {
		b.Publish(event("placed", order{fmt.Sprint(i), 1}))
	}
	drain(t, b)
	if n := sagas(t, pool, "order"); n != 12 || r.most.Load() > 2 {
		t.Errorf("%d sagas, %d at once", n, r.most.Load())
	}
	if dead, err := inbox.DeadLetters(t.Context(), pool, inbox.DeadFilter{}); err != nil || len(dead) > 0 {
		t.Errorf("%+v, %v", dead, err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) { // so that the checks find an end
		var n int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NULL`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sagas go on", n)
		}
	}
}
