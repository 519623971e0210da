package integration

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// sale is a saga of the shop: it takes the money and tells the bank.
type sale struct {
	ID    int `json:"id"`
	Cents int `json:"cents"`
}

func (sale) SagaName() string { return "sale" }

// transfer is the bank's, started by the shop's message.
type transfer sale

func (transfer) SagaName() string { return "transfer" }

// wire publishes what the outbox sends to a broker in memory, some of it twice, and now and then it fails
// before or after it has.
type wire struct{ to *memorysub.Broker }

func (w wire) Publish(_ context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	fault := rand.IntN(20)
	for i, e := range events {
		if fault != 0 {
			for range 1 + rand.IntN(2)*rand.IntN(3) {
				w.to.Publish(inbox.Message{ID: e.ID.String(), Source: "shop", Topic: e.Topic, Key: e.Key, Type: e.Type, Payload: e.Payload, Headers: e.Headers, TraceParent: e.TraceParent})
			}
		}
		if fault < 2 {
			errs[i] = fmt.Errorf("the wire is at fault")
		}
	}
	return errs
}

func (wire) Close() error { return nil }

// TestTwoServicesAgreeToTheCent: a saga of the shop publishes, the bank consumes and starts a saga of its own, each in
// its own database. Connections are cut on both sides, messages are doubled, handlers fail, partitions move, and consumers,
// relays and workers come and go. In the end the bank has exactly what the shop has sold.
func TestTwoServicesAgreeToTheCent(t *testing.T) {
	t.Parallel()
	quiet := slog.New(slog.DiscardHandler)
	open := func() *pgxpool.Pool {
		return sqltest.Config(t, func(c *pgxpool.Config) {
			c.MaxConns = 20
			c.ConnConfig.RuntimeParams["application_name"] = "service"
			sql.WakeOnCommit(c)
		})
	}
	shop, bank := open(), open()
	do := func(db *pgxpool.Pool, statement string) {
		for _, err := db.Exec(t.Context(), statement); err != nil; _, err = db.Exec(t.Context(), statement) {
			t.Logf("%v; again", err) // our own connection was cut
			time.Sleep(10 * time.Millisecond)
		}
	}
	ask := func(db *pgxpool.Pool, question string) (n int) {
		for err := db.QueryRow(t.Context(), question).Scan(&n); err != nil; err = db.QueryRow(t.Context(), question).Scan(&n) {
			time.Sleep(10 * time.Millisecond)
		}
		return n
	}
	do(shop, `CREATE TABLE sold (id integer, cents integer)`)
	do(bank, `CREATE TABLE entry (id integer, cents integer); CREATE TABLE account (cents bigint); INSERT INTO account VALUES (0)`)

	selling, err := pgengine.New(shop, pgengine.Config{Logger: quiet, Sagas: []pgengine.Definition{
		pgengine.Saga[sale]{Version: 1, Steps: pgengine.Steps[sale](pgengine.TxStep[sale, int]{
			Name: "sell", Retry: pgengine.Retry{MaxAttempts: 100, Initial: time.Millisecond},
			Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[sale]) (int, error) {
				if _, err := tx.Exec(ctx, `INSERT INTO sold VALUES ($1, $2)`, c.Input.ID, c.Input.Cents); err != nil {
					return 0, err
				}
				if rand.IntN(10) == 0 {
					return 0, fmt.Errorf("the shop is closed")
				}
				return 0, outbox.Publish(ctx, tx, outbox.JSON("sales", fmt.Sprint("till ", c.Input.ID%7), c.Input))
			},
		})},
	}})
	if err != nil {
		t.Fatal(err)
	}
	booking, err := pgengine.New(bank, pgengine.Config{Logger: quiet, Sagas: []pgengine.Definition{
		pgengine.Saga[transfer]{Version: 1, Steps: pgengine.Steps[transfer](pgengine.TxStep[transfer, int]{
			Name: "book", Retry: pgengine.Retry{MaxAttempts: 100, Initial: time.Millisecond},
			Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[transfer]) (int, error) {
				_, err := tx.Exec(ctx, `WITH e AS (INSERT INTO entry VALUES ($1, $2)) UPDATE account SET cents = cents + $2`, c.Input.ID, c.Input.Cents)
				return 0, err
			},
		})},
	}})
	if err != nil {
		t.Fatal(err)
	}

	broker := memorysub.New(memorysub.Config{Partitions: 4})
	start := jobs.StartOn(booking, jobs.FromJSON[transfer], nil)
	// Each of these runs, is told to end, and is replaced.
	services := []func() (interface{ Run(context.Context) error }, error){
		func() (interface{ Run(context.Context) error }, error) {
			return jobs.NewWorker(selling, jobs.Config{Lease: time.Second})
		},
		func() (interface{ Run(context.Context) error }, error) {
			return jobs.NewWorker(booking, jobs.Config{Lease: time.Second})
		},
		func() (interface{ Run(context.Context) error }, error) {
			return outbox.NewRelay(shop, wire{broker}, outbox.Config{Logger: quiet, Lease: time.Second})
		},
	}
	consumer := func() (interface{ Run(context.Context) error }, error) {
		return inbox.NewConsumer(bank, broker.Source("bank"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
			if err := start(ctx, tx, m); err != nil {
				return err
			}
			if rand.IntN(30) == 0 {
				return fmt.Errorf("the bank is closed")
			}
			return nil
		}, inbox.Config{Name: "bank", Workers: 2, MaxAttempts: 1000, Backoff: inbox.Backoff{Initial: time.Millisecond, Max: 20 * time.Millisecond}, Grace: 50 * time.Millisecond, Logger: quiet})
	}
	services = append(services, consumer, consumer)
	stops := make([]func(), len(services))
	launch := func(i int) {
		s, err := services[i]()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		stops[i] = func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("service %d: %v", i, err)
			}
		}
	}
	for i := range services {
		launch(i)
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()

	const sales = 400
	total := 0
	cut := `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 2) x`
	for i := range sales {
		s := sale{ID: i, Cents: 1 + rand.IntN(100_000)}
		total += s.Cents
		key := &pgengine.StartOptions{Key: fmt.Sprint(i)} // the start may be cut off, and come again
		for err := pgx.BeginFunc(t.Context(), shop, func(tx pgx.Tx) error { _, err := selling.Start(t.Context(), tx, s, key); return err }); err != nil; {
			err = pgx.BeginFunc(t.Context(), shop, func(tx pgx.Tx) error { _, err := selling.Start(t.Context(), tx, s, key); return err })
		}
		switch {
		case i%40 == 11:
			ask(shop, cut)
		case i%40 == 21:
			ask(bank, cut)
		case i%40 == 31:
			broker.Rebalance("bank")
		case i%80 == 39:
			n := rand.IntN(len(services))
			stops[n]()
			launch(n)
		}
		time.Sleep(2 * time.Millisecond)
	}
	for deadline := time.Now().Add(patienceOfTwo); ; time.Sleep(20 * time.Millisecond) {
		if ask(bank, `SELECT count(*) FROM pgsagaz.saga WHERE state = 'completed'`) == sales && broker.Waiting("bank") == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d sales have reached the bank; %d messages wait", ask(bank, `SELECT count(*) FROM entry`), sales, broker.Waiting("bank"))
		}
	}
	for question, want := range map[string]int{
		`SELECT count(*) FROM entry`: sales, `SELECT count(DISTINCT id) FROM entry`: sales, `SELECT sum(cents) FROM entry`: total,
		`SELECT cents FROM account`: total, `SELECT count(*) FROM pgsagaz.saga`: sales, `SELECT count(*) FROM pgsagaz.inbox_dead`: 0,
	} {
		if got := ask(bank, question); got != want {
			t.Errorf("bank: %s is %d, want %d", question, got, want)
		}
	}
	if got := ask(shop, `SELECT sum(cents) FROM sold`); got != total {
		t.Errorf("the shop has sold for %d, want %d", got, total)
	}
}

// patienceOfTwo is how long two services on a busy machine may take.
const patienceOfTwo = 2 * time.Minute
