package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// What the saga of example_order_test.go works with.
type (
	// Stock is a table of ours.
	Stock interface {
		Reserve(ctx context.Context, tx pgx.Tx, sku string, quantity int) (Reservation, error)
		Release(ctx context.Context, tx pgx.Tx, id int64) error
	}
	// Bank, Carrier and Mail are somebody else's. Each acts once a key.
	Bank interface {
		Charge(ctx context.Context, key string, cents int64) (Payment, error)
		Find(ctx context.Context, key string) (Payment, bool, error)
		Refund(ctx context.Context, key, payment string) error
	}
	Carrier interface {
		Ship(ctx context.Context, key, warehouse string) (Parcel, error)
	}
	Mail interface {
		Send(ctx context.Context, key, to, receipt string) (string, error)
	}

	Reservation struct {
		ID        int64
		Warehouse string
	}
	Payment struct{ ID, Receipt string }
	Parcel  struct{ Tracking string }
)

// placeOrder writes the order and starts its saga: both, or neither.
func placeOrder(ctx context.Context, engine *pgengine.Engine, order Order) (saga string, err error) {
	err = sql.InTx(ctx, engine.Pool(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO orders (id, sku) VALUES ($1, $2)`, order.ID, order.SKU); err != nil {
			return err
		}
		started, err := engine.Start(ctx, tx, order, &pgengine.StartOptions{Key: order.ID})
		saga = started.ID
		return err
	})
	return saga, err
}

func ExampleEngine_Start() {
	var engine *pgengine.Engine // of pgengine.New
	place := func(ctx context.Context, order Order) error {
		return sql.InTx(ctx, engine.Pool(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO orders (id, sku) VALUES ($1, $2)`, order.ID, order.SKU); err != nil {
				return err
			}
			_, err := engine.Start(ctx, tx, order, &pgengine.StartOptions{Key: order.ID})
			return err
		})
	}
	_ = place
}

func ExampleEngine_Cancel() {
	var engine *pgengine.Engine // of pgengine.New
	withdraw := func(ctx context.Context, saga string) error {
		err := pgx.BeginFunc(ctx, engine.Pool(), func(tx pgx.Tx) error {
			return engine.Cancel(ctx, tx, saga, pgengine.By{Actor: "ann@example.com", Reason: "the customer has changed her mind"})
		})
		if errors.Is(err, pgengine.ErrEnded) {
			return errors.New("too late: the parcel is on its way")
		}
		return err
	}
	_ = withdraw
}

// A worker needs the steps' code, and drives their sagas until its context ends.
func ExampleNew() {
	var (
		pool    *pgxpool.Pool
		stock   Stock
		bank    Bank
		carrier Carrier
		mail    Mail
	)
	work := func(ctx context.Context) error {
		engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{Fulfil(stock, bank, carrier, mail)}})
		if err != nil {
			return err
		}
		worker, err := jobs.NewWorker(engine, jobs.Config{})
		if err != nil {
			return err
		}
		return worker.Run(ctx)
	}
	_ = work
}

// All that is wrong with a definition is reported at once.
func ExampleNew_mistakes() {
	pay := pgengine.Activity[Order, Payment]{Name: "pay"}
	ship := pgengine.Activity[Order, Parcel]{
		Name: "ship", After: pgengine.Steps(pay),
		Do: func(context.Context, call) (Parcel, error) { return Parcel{}, nil },
	}
	_, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{
		pgengine.Saga[Order]{Steps: pgengine.Steps(ship)},
	}})
	fmt.Println(err)
	// Output:
	// saga "order": Version must be 1 or more, it is 0
	// saga "order", step "ship": comes After "pay", which is not among Steps
}

// A card that was refused will be refused again, and nothing was taken from it.
func ExampleTerminal() {
	errRefused := errors.New("card refused")
	charge := pgengine.Activity[Order, Payment]{
		Name: "charge",
		Do: func(_ context.Context, c call) (Payment, error) {
			return Payment{}, pgengine.Terminal(fmt.Errorf("%d cents: %w", c.Input.Cents, errRefused))
		},
	}
	_, err := charge.Do(context.Background(), pgenginetest.Call(Order{Cents: 1299}))
	fmt.Println(err, errors.Is(err, errRefused))
	// Output: 1299 cents: card refused true
}

// The same key for every attempt, and another one for what undoes it.
func ExampleCall_Key() {
	order, charge := Order{ID: "o-1"}, pgenginetest.At("charge")
	fmt.Println(pgenginetest.Call(order, charge).Key())
	fmt.Println(pgenginetest.Call(order, charge, pgenginetest.Attempt(2)).Key())
	fmt.Println(pgenginetest.Call(order, charge, pgenginetest.Undo()).Key())
	// Output:
	// 00000000-0000-7000-8000-000000000001/charge
	// 00000000-0000-7000-8000-000000000001/charge
	// 00000000-0000-7000-8000-000000000001/charge/undo
}

// shop is the world around the saga: tables, and a bank, a carrier and a mail server in memory.
type shop struct {
	mu     sync.Mutex
	money  map[string]Payment // by key
	sent   []string           // parcels and mails
	broken map[string]error   // what does not work: charge, answer, ship, mail
}

func (*shop) Reserve(ctx context.Context, tx pgx.Tx, sku string, quantity int) (r Reservation, err error) {
	err = tx.QueryRow(ctx, `
		WITH taken AS (UPDATE stock SET quantity = quantity - $2 WHERE sku = $1 AND quantity >= $2 RETURNING sku, warehouse)
		INSERT INTO reservation (sku, quantity) SELECT sku, $2 FROM taken RETURNING id, (SELECT warehouse FROM taken)`,
		sku, quantity).Scan(&r.ID, &r.Warehouse)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, pgengine.Terminal(fmt.Errorf("%s is sold out", sku))
	}
	return r, err
}

func (*shop) Release(ctx context.Context, tx pgx.Tx, id int64) error {
	_, err := tx.Exec(ctx, `
		WITH r AS (DELETE FROM reservation WHERE id = $1 RETURNING sku, quantity)
		UPDATE stock s SET quantity = s.quantity + r.quantity FROM r WHERE s.sku = r.sku`, id)
	return err
}

func (s *shop) Charge(_ context.Context, key string, cents int64) (Payment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken["charge"]; err != nil {
		return Payment{}, err
	}
	if _, before := s.money[key]; !before {
		s.money[key] = Payment{ID: "p" + key, Receipt: fmt.Sprint(cents, " cents")}
	}
	return s.money[key], s.broken["answer"]
}

func (s *shop) Find(_ context.Context, key string) (Payment, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, found := s.money[key]
	return p, found, nil
}

func (s *shop) Refund(_ context.Context, _, payment string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.money, strings.TrimPrefix(payment, "p"))
	return nil
}

func (s *shop) Ship(_ context.Context, _, warehouse string) (Parcel, error) {
	return Parcel{Tracking: "from " + warehouse}, s.send("ship", "parcel from "+warehouse)
}

func (s *shop) Send(_ context.Context, _, to, receipt string) (string, error) {
	return "sent", s.send("mail", "mail to "+to+": "+receipt)
}

func (s *shop) send(kind, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.broken[kind]; err != nil {
		return err
	}
	s.sent = append(s.sent, what)
	return nil
}

func (s *shop) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.sent)
	return s.sent
}

func TestReadmeExample(t *testing.T) {
	t.Parallel()
	no := errors.New("out of order")
	for name, test := range map[string]struct {
		broken map[string]error
		state  pgengine.State
		cause  string // the step that failed
		sent   []string
		money  int
	}{
		"all goes well": {nil, pgengine.Completed, "", []string{"mail to ann@example.com: 1299 cents", "parcel from Bern"}, 1},
		"a lost mail":   {map[string]error{"mail": pgengine.Terminal(no)}, pgengine.Completed, "", []string{"parcel from Bern"}, 1},
		// The mail is sent beside the parcel: it may have left by then, or not.
		"no parcel can leave": {map[string]error{"ship": pgengine.Terminal(no)}, pgengine.Compensated, "ship", nil, 0},
		"the card is refused": {map[string]error{"charge": pgengine.Terminal(no)}, pgengine.Compensated, "charge", nil, 0},
		"sold out":            {nil, pgengine.Compensated, "reserve", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := sqltest.New(t)
			const schema = `
				CREATE TABLE orders (id text PRIMARY KEY, sku text);
				CREATE TABLE stock (sku text PRIMARY KEY, warehouse text, quantity int CHECK (quantity >= 0));
				CREATE TABLE reservation (id bigint GENERATED ALWAYS AS IDENTITY, sku text, quantity int);
				INSERT INTO stock VALUES ('hat', 'Bern', 3)`
			if _, err := pool.Exec(t.Context(), schema); err != nil {
				t.Fatal(err)
			}
			s := &shop{money: map[string]Payment{}, broken: test.broken}
			e := engine(t, pool, Fulfil(s, s, s, s))
			work(t, e)
			order := Order{ID: "o-1", SKU: "hat", Email: "ann@example.com", Quantity: 2, Cents: 1299}
			if name == "sold out" {
				order.Quantity = 4
			}
			id, err := placeOrder(t.Context(), e, order)
			if err != nil {
				t.Fatal(err)
			}
			got := await(t, e, id, test.state)
			left, events := 3, 0
			if test.state == pgengine.Completed {
				left, events = 1, 1
				if string(got.Output) != `{"Tracking":"from Bern"}` {
					t.Errorf("output %s", got.Output)
				}
			} else if got.Cause == nil || got.Cause.Step != test.cause {
				t.Errorf("the cause is %v, want step %s", got.Cause, test.cause)
			}
			if n := query[int](t, pool, "SELECT quantity FROM stock"); n != left {
				t.Errorf("%d hats are left, want %d", n, left)
			}
			if n := query[int](t, pool, "SELECT count(*) FROM pgsagaz.outbox WHERE topic = 'orders.shipped' AND key = 'o-1'"); n != events {
				t.Errorf("%d events, want %d", n, events)
			}
			if sent := s.all(); !slices.Equal(sent, test.sent) && test.cause != "ship" {
				t.Errorf("sent %q, want %q", sent, test.sent)
			}
			if len(s.money) != test.money {
				t.Errorf("payments %v, want %d", s.money, test.money)
			}
			if _, err := placeOrder(t.Context(), e, order); err == nil {
				t.Error("the order was placed twice")
			}
		})
	}
}

// TestReadmeExampleInDoubt: the bank takes the money and its answer is lost, until the deadline passes. The saga
// asks the bank, learns of the payment, and gives it back.
func TestReadmeExampleInDoubt(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	if _, err := pool.Exec(t.Context(), `
		CREATE TABLE stock (sku text PRIMARY KEY, warehouse text, quantity int);
		CREATE TABLE reservation (id bigint GENERATED ALWAYS AS IDENTITY, sku text, quantity int);
		INSERT INTO stock VALUES ('hat', 'Bern', 3)`); err != nil {
		t.Fatal(err)
	}
	s := &shop{money: map[string]Payment{}, broken: map[string]error{"answer": errors.New("connection reset")}}
	e := engine(t, pool, Fulfil(s, s, s, s))
	work(t, e)
	started := start(t, e, Order{SKU: "hat", Quantity: 1}, &pgengine.StartOptions{Timeout: 300 * time.Millisecond})
	got := await(t, e, started.ID, pgengine.Compensated)
	if got.Cause == nil || got.Cause.Kind != pgengine.CauseDeadline || len(s.money) != 0 || query[int](t, pool, "SELECT quantity FROM stock") != 3 {
		t.Errorf("%+v, payments %v", got, s.money)
	}
}

func TestReadmeExampleStepByStep(t *testing.T) {
	s := &shop{money: map[string]Payment{}}
	saga := Fulfil(s, s, s, s)
	ship := pgenginetest.Step[pgengine.Activity[Order, Parcel]](t, saga, "ship")
	p, err := ship.Do(t.Context(), pgenginetest.Call(Order{ID: "o-1"}, pgenginetest.Given("reserve", Reservation{Warehouse: "Bern"})))
	if err != nil || p.Tracking != "from Bern" {
		t.Errorf("%+v, %v", p, err)
	}

	charge := pgenginetest.Step[pgengine.Activity[Order, Payment]](t, saga, "charge")
	at := pgenginetest.At("charge")
	paid, err := charge.Do(t.Context(), pgenginetest.Call(Order{Cents: 5}, at))
	if err != nil || paid.Receipt != "5 cents" {
		t.Errorf("%+v, %v", paid, err)
	}
	if again, err := charge.Do(t.Context(), pgenginetest.Call(Order{Cents: 5}, at, pgenginetest.Attempt(2))); err != nil || again != paid || len(s.money) != 1 {
		t.Errorf("a second attempt: %+v, %v, payments %v", again, err, s.money)
	}
	if found, ok, err := charge.Lookup(t.Context(), pgenginetest.Call(Order{}, at)); err != nil || !ok || found != paid {
		t.Errorf("looked up: %+v, %v, %v", found, ok, err)
	}
	if err := charge.Undo(t.Context(), pgenginetest.Call(Order{}, at, pgenginetest.Undo()), paid); err != nil || len(s.money) != 0 {
		t.Errorf("undone: %v, payments %v", err, s.money)
	}
}
