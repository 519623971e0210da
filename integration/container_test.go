package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// postgresContainer runs the image of PGSAGAZ_TEST_IMAGE, else the official one. It skips where neither an image was asked for nor
// Docker answers.
func postgresContainer(t *testing.T) *postgres.PostgresContainer {
	t.Helper()
	image := os.Getenv("PGSAGAZ_TEST_IMAGE")
	if image == "" {
		testcontainers.SkipIfProviderIsNotHealthy(t)
		image = sqltest.DefaultImage
	}
	container, err := postgres.Run(t.Context(), image,
		postgres.WithUsername("shop"), postgres.WithPassword("shop"), postgres.WithDatabase("shop"), postgres.BasicWaitStrategies())
	testcontainers.CleanupContainer(t, container)
	if err != nil {
		t.Fatalf("container %s: %v", image, err)
	}
	return container
}

// crashInside kills a backend with SIGKILL, upon which Postgres ends all of them and recovers.
func crashInside(t *testing.T, container testcontainers.Container, pool *pgxpool.Pool) {
	t.Helper()
	var backend int
	if err := pool.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		t.Fatal(err)
	}
	code, output, err := container.Exec(t.Context(), []string{"sh", "-c", fmt.Sprintf("kill -9 %d", backend)})
	if err != nil || code != 0 {
		said, _ := io.ReadAll(output)
		t.Fatalf("kill: %d, %v: %s", code, err, said)
	}
}

// TestContainerEndToEnd: sagas, the relay and the inbox on a Postgres in a container, which crashes in the midst of it. What is sold
// is told once, and what can't be paid for is taken back and not told.
func TestContainerEndToEnd(t *testing.T) {
	container := postgresContainer(t)
	url, err := container.ConnectionString(t.Context(), "sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.Migrate(t.Context(), config.ConnConfig, nil); err != nil {
		t.Fatal(err)
	}
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), `CREATE TABLE sold (id integer); CREATE TABLE told (id integer)`); err != nil {
		t.Fatal(err)
	}

	quiet := slog.New(slog.DiscardHandler)
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{paidSale()}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	broker := memorysub.New(memorysub.Config{})
	worker, err := jobs.NewWorker(engine, jobs.Config{Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	relay, err := outbox.NewRelay(pool, wire{broker}, outbox.Config{Logger: quiet, Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := inbox.NewConsumer(pool, broker.Source("told"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		_, err := tx.Exec(ctx, `INSERT INTO told SELECT ($1::jsonb ->> 'id')::integer`, string(m.Payload))
		return err
	}, inbox.Config{Name: "told", MaxAttempts: 1000, Backoff: inbox.Backoff{Initial: time.Millisecond, Max: 20 * time.Millisecond}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error)
	services := []func(context.Context) error{worker.Run, relay.Run, consumer.Run}
	for _, run := range services {
		go func() { ended <- run(ctx) }()
	}
	defer func() {
		cancel()
		for range services {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if found, err := sql.Check(context.WithoutCancel(t.Context()), pool); err != nil || len(found) > 0 {
			t.Errorf("%v, %v", found, err)
		}
	}()

	const sales = 60
	for i := range sales {
		if i == sales/2 {
			crashInside(t, container, pool)
		}
		for { // the crash cuts starts off
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				_, err := engine.Start(t.Context(), tx, sale{ID: i, Cents: i}, &pgengine.StartOptions{Key: fmt.Sprint(i)})
				return err
			})
			if err == nil {
				break
			}
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	const unpaid = sales / 5
	want := [4]int{sales - unpaid, unpaid, sales - unpaid, sales - unpaid}
	var got [4]int
	for deadline := time.Now().Add(patienceOfTwo); got != want; time.Sleep(20 * time.Millisecond) {
		err := pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE state = 'completed'), count(*) FILTER (WHERE state = 'compensated'),
			(SELECT count(*) FROM sold), (SELECT count(*) FROM told) FROM pgsagaz.saga`).Scan(&got[0], &got[1], &got[2], &got[3])
		if time.Now().After(deadline) {
			t.Fatalf("%v of completed, compensated, sold and told; want %v (%v)", got, want, err)
		}
	}
	var doubled int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) - count(DISTINCT id) FROM told`).Scan(&doubled); err != nil || doubled != 0 {
		t.Errorf("%d sales were told twice, %v", doubled, err)
	}
}

// paidSale sells, takes the money, which nobody has for every fifth, and tells.
func paidSale() pgengine.Definition {
	type call = pgengine.Call[sale]
	patient := pgengine.Retry{MaxAttempts: 1000, Initial: time.Millisecond, Max: 20 * time.Millisecond}
	sell := pgengine.TxStep[sale, int]{
		Name: "sell", Retry: patient, UndoRetry: patient,
		Do: func(ctx context.Context, tx pgx.Tx, c call) (int, error) {
			_, err := tx.Exec(ctx, `INSERT INTO sold VALUES ($1)`, c.Input.ID)
			return 0, err
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c call, _ int) error {
			_, err := tx.Exec(ctx, `DELETE FROM sold WHERE id = $1`, c.Input.ID)
			return err
		},
	}
	pay := pgengine.Activity[sale, int]{
		Name: "pay", After: pgengine.Steps(sell), Retry: patient, UndoRetry: patient,
		Do: func(_ context.Context, c call) (int, error) {
			if c.Input.Cents%5 == 0 {
				return 0, pgengine.Terminal(errors.New("there is no money"))
			}
			return c.Input.Cents, nil
		},
		Undo: func(context.Context, call, int) error { return nil },
	}
	tell := pgengine.TxStep[sale, int]{
		Name: "tell", After: pgengine.Steps(pay), Retry: patient,
		Do: func(ctx context.Context, tx pgx.Tx, c call) (int, error) {
			return 0, outbox.Publish(ctx, tx, outbox.JSON("sales", fmt.Sprint(c.Input.ID%7), c.Input))
		},
	}
	return pgengine.Saga[sale]{Version: 1, Steps: pgengine.Steps(sell, pay, tell)}
}
