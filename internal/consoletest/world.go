// Package consoletest is a small world for the console's tests to look at: sagas of several shapes, a worker that drives
// them, a relay, and an outside that can be out of order.
package consoletest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// World is a database with sagas, and whoever works on them.
type World struct {
	Pool   *pgxpool.Pool
	Engine *pgengine.Engine
	// CarrierDown: no parcel leaves, and orders get stuck past their pivot.
	CarrierDown atomic.Bool
	// AirlineDown: no flight can be given back, and trips that turn back get stuck.
	AirlineDown atomic.Bool
	// BrokerDown: the broker rejects every message.
	BrokerDown atomic.Bool
	// Pace is how long, in milliseconds, a booking takes to be made and to be undone.
	Pace atomic.Int64

	t    testing.TB
	held atomic.Pointer[chan struct{}] // what undos wait for; nil: nothing
}

// Order is the input of a saga with a pivot.
type Order struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
	Note  string `json:"note,omitempty"`
}

// SagaName is order.
func (Order) SagaName() string { return "order" }

// Trip is the input of a saga that waits for a signal, and can be taken back until then.
type Trip struct {
	To    string `json:"to"`
	Stops int    `json:"stops,omitempty"` // each is a saga of its own
}

// SagaName is trip.
func (Trip) SagaName() string { return "trip" }

// Stop is the input of a trip's children.
type Stop struct {
	At int `json:"at"`
}

// SagaName is stop.
func (Stop) SagaName() string { return "stop" }

// Confirmed is the signal that a trip awaits.
type Confirmed struct {
	By string `json:"by"`
}

// SignalName is confirmed.
func (Confirmed) SignalName() string { return "confirmed" }

var (
	errCarrier = errors.New("carrier: 503 no lorry today")
	errAirline = errors.New("airline: refunds are closed until Monday")
	errMail    = errors.New("mail: mailbox full")
)

func (w *World) order() pgengine.Definition {
	type call = pgengine.Call[Order]
	few := pgengine.Retry{MaxAttempts: 2, Initial: 10 * time.Millisecond}
	reserve := pgengine.TxStep[Order, string]{
		Name: "reserve",
		Do:   func(_ context.Context, _ pgx.Tx, c call) (string, error) { return "shelf 7 for " + c.Input.ID, nil },
		Undo: func(context.Context, pgx.Tx, call, string) error { return nil },
	}
	check := pgengine.Activity[Order, bool]{
		Name: "check-fraud", After: pgengine.Steps(reserve),
		Do:   func(context.Context, call) (bool, error) { return true, nil },
		Undo: func(context.Context, call, bool) error { return nil },
	}
	charge := pgengine.Activity[Order, map[string]any]{
		Name: "charge", After: pgengine.Steps(check), Pivot: true,
		Do: func(_ context.Context, c call) (map[string]any, error) {
			return map[string]any{"payment": "p-" + c.Input.ID, "cents": c.Input.Cents}, nil
		},
	}
	ship := pgengine.Activity[Order, string]{
		Name: "ship", After: pgengine.Steps(charge), Retry: few,
		Do: func(context.Context, call) (string, error) {
			if w.CarrierDown.Load() {
				return "", errCarrier
			}
			return "parcel 12", nil
		},
		Commit: func(ctx context.Context, tx pgx.Tx, c call, parcel string) error {
			return outbox.Publish(ctx, tx, outbox.JSON("orders.shipped", c.Input.ID, parcel))
		},
	}
	notify := pgengine.Activity[Order, string]{
		Name: "notify", After: pgengine.Steps(charge), Optional: true, Retry: few,
		Do: func(context.Context, call) (string, error) { return "", errMail },
	}
	return pgengine.Saga[Order]{Version: 2, Output: ship, Steps: pgengine.Steps[Order](reserve, check, charge, ship, notify)}
}

func (w *World) trip() pgengine.Definition {
	type call = pgengine.Call[Trip]
	book := func(name string, undo func() error, after ...pgengine.Step[Trip]) pgengine.Activity[Trip, string] {
		return pgengine.Activity[Trip, string]{
			Name: name, After: after,
			Do: func(ctx context.Context, c call) (string, error) { return name + " to " + c.Input.To, w.take(ctx) },
			Undo: func(ctx context.Context, c call, _ string) error {
				if err := errors.Join(w.pass(ctx), w.take(ctx)); err != nil {
					return err
				}
				return undo()
			},
			UndoRetry: pgengine.Retry{MaxAttempts: 1},
		}
	}
	well := func() error { return nil }
	flight := book("flight", func() error {
		if w.AirlineDown.Load() {
			return errAirline
		}
		return nil
	})
	hotel := book("hotel", well, flight)
	car := book("car", well, flight)
	stops := pgengine.Each[Trip, Stop, string]{
		Name: "stops", After: pgengine.Steps(flight),
		Inputs: func(_ context.Context, c call) (all []Stop, err error) {
			for i := range c.Input.Stops {
				all = append(all, Stop{At: i})
			}
			return all, nil
		},
	}
	confirm := pgengine.Await[Trip, Confirmed]{Name: "confirm", After: pgengine.Steps[Trip](hotel, car, stops)}
	tickets := book("tickets", well, confirm)
	return pgengine.Saga[Trip]{Version: 1, Output: tickets, Steps: pgengine.Steps[Trip](flight, hotel, car, stops, confirm, tickets)}
}

func (w *World) stop() pgengine.Definition {
	visit := pgengine.TxStep[Stop, string]{
		Name: "visit",
		Do:   func(context.Context, pgx.Tx, pgengine.Call[Stop]) (string, error) { return "seen", nil },
		Undo: func(context.Context, pgx.Tx, pgengine.Call[Stop], string) error { return nil },
	}
	return pgengine.Saga[Stop]{Version: 1, Output: visit, Steps: pgengine.Steps[Stop](visit)}
}

func (w *World) take(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(w.Pace.Load()) * time.Millisecond):
		return nil
	}
}

// HoldUndos has bookings wait before they are undone, until release is called.
func (w *World) HoldUndos() (release func()) {
	gate := make(chan struct{})
	w.held.Store(&gate)
	return sync.OnceFunc(func() { close(gate) })
}

func (w *World) pass(ctx context.Context) error {
	gate := w.held.Load()
	if gate == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-*gate:
		return nil
	}
}

// broker rejects all while it is down.
type broker struct {
	*memorypub.Broker
	down *atomic.Bool
}

func (b broker) Publish(ctx context.Context, events []outbox.Event) []error {
	if !b.down.Load() {
		return b.Broker.Publish(ctx, events)
	}
	errs := make([]error, len(events))
	for i := range errs {
		errs[i] = &outbox.RejectedError{Err: errors.New("topic orders.shipped is not known here")}
	}
	return errs
}

// New makes a world in a fresh database, with a worker and a relay that run until the test ends.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{Pool: sqltest.New(t), t: t}
	var err error
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.Engine, err = pgengine.New(w.Pool, pgengine.Config{Sagas: []pgengine.Definition{w.order(), w.trip(), w.stop()}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Engine.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	worker, err := jobs.NewWorker(w.Engine, jobs.Config{ID: "worker-1", Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	relay, err := outbox.NewRelay(w.Pool, broker{memorypub.New(memorypub.Config{}), &w.BrokerDown}, outbox.Config{
		Name: "relay-1", Retry: outbox.Retry{MaxAttempts: 1}, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.run(worker.Run)
	w.run(relay.Run)
	return w
}

// run runs f until the test ends.
func (w *World) run(f func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// Start starts a saga and gives its id.
func (w *World) Start(in pgengine.Input, opts *pgengine.StartOptions) (id string) {
	w.t.Helper()
	err := sql.InTx(w.t.Context(), w.Pool, func(tx pgx.Tx) error {
		s, err := w.Engine.Start(w.t.Context(), tx, in, opts)
		id = s.ID
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// Until waits until a saga is as ok says, and gives it.
func (w *World) Until(id, what string, ok func(pgengine.Status) bool) pgengine.Status {
	w.t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		s, err := w.Engine.Get(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if ok(s) {
			return s
		}
		if time.Since(begin) > 60*time.Second {
			w.t.Fatalf("saga %s is not %s, it is %s: %+v", id, what, s.State, s.Steps)
		}
	}
}

// Becomes waits for a state.
func (w *World) Becomes(id string, state pgengine.State) pgengine.Status {
	w.t.Helper()
	return w.Until(id, string(state), func(s pgengine.Status) bool { return s.State == state })
}

// Awaits waits until a saga awaits a signal.
func (w *World) Awaits(id string) pgengine.Status {
	w.t.Helper()
	return w.Until(id, "awaiting a signal", func(s pgengine.Status) bool {
		for _, step := range s.Steps {
			if step.State == "awaiting" {
				return true
			}
		}
		return false
	})
}

// DeadLetter waits until a message has died, and gives its number.
func (w *World) DeadLetter() int64 {
	w.t.Helper()
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		all, err := outbox.DeadLetters(w.t.Context(), w.Pool, outbox.DeadFilter{Limit: 1})
		if err != nil {
			w.t.Fatal(err)
		}
		if len(all) > 0 {
			return all[0].ID
		}
		if time.Since(begin) > 60*time.Second {
			w.t.Fatal("no message has died")
		}
	}
}
