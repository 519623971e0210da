package demo

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
)

// TestFaults runs an order with every fault there is, against the real bank and the demo's own audit.
func TestFaults(t *testing.T) { pgenginetest.Faults(t, order) }

func order(t testing.TB, pool *pgxpool.Pool) pgenginetest.Case {
	const runID = "faults"
	if err := install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO demo.stock (run, sku, initial, on_shelf) VALUES ($1, 'book', 5, 5)`, runID); err != nil {
		t.Fatal(err)
	}
	b, err := openBank(pool, Faults{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.shut(context.Background()); err != nil {
			t.Error(err)
		}
	})
	engine, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return pgenginetest.Case{
		Saga:  Fulfil(&BankClient{}, Mail{}),
		Input: Order{ID: "o-1", Run: runID, SKU: "book", Quantity: 2, Cents: 1990, Card: Card{Bank: b.url, Number: "card-0001"}, Address: "Bern"},
		Grows: []string{"bank.charge", "bank.entry", "demo.payment", "demo.reservation", "demo.parcel"},
		Verify: func(ctx context.Context, pool *pgxpool.Pool, end pgengine.Status) error {
			if end.State == pgengine.Stuck {
				return nil // its audit comes when it has ended
			}
			if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO demo.orders (id, run, saga_id, sku, quantity, cents) VALUES ('o-1', $1, $2, 'book', 2, 1990)`, runID, end.ID)
				return err
			}); err != nil {
				return err
			}
			r := &run{Options: Options{Orders: 1}, id: runID, pool: pool, engine: engine}
			a, err := r.newAudit(ctx, map[string]pgengine.Status{end.ID: end})
			if err != nil {
				return err
			}
			findings, _ := a.findings()
			for _, f := range findings {
				if !f.OK {
					return fmt.Errorf("%s: %v", f.Rule, f.Wrong)
				}
			}
			return nil
		},
	}
}
