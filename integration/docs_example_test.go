//lint:file-ignore SA4006 as in the documents, where errors are left to the reader

package integration

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// The README's own names.
type (
	readmeOrder struct {
		ID, SKU  string
		Quantity int
		Cents    int64
	}
	stockT struct{}
)

func (readmeOrder) SagaName() string { return "order" }

// The start of the README, in the words of the README.
func _(ctx context.Context, pool *pgxpool.Pool, stock, bank, carrier, mail stockT) error {
	type Order = readmeOrder
	Fulfil := func(stock, bank, carrier, mail stockT) pgengine.Definition { return nil }

	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{Fulfil(stock, bank, carrier, mail)}})

	err = sql.InTx(ctx, pool, func(tx pgx.Tx) error { // or any pgx transaction of yours
		_, err := engine.Start(ctx, tx, Order{ID: "o-1", SKU: "book", Quantity: 1, Cents: 1990}, &pgengine.StartOptions{Key: "o-1"})
		return err
	})

	worker, err := jobs.NewWorker(engine, jobs.Config{})
	err = worker.Run(ctx) // until ctx ends; then it finishes what it has begun
	return err
}

// docs/optimistic-sending.md.
func _(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig("postgres://localhost/shop")
	if err != nil {
		log.Fatal(err)
	}
	sql.WakeOnCommit(config) // messages leave right after their commit
	pool, err := pgxpool.NewWithConfig(ctx, config)
	return pool, err
}
