package pgengine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
)

// An order runs with every fault there is: this one line is the test.
func TestFulfil(t *testing.T) { pgenginetest.Faults(t, fulfilment(Fulfil)) }

// fulfilment is an order of one hat, and what must be true of it however it ends.
func fulfilment(saga func(Stock, Bank, Carrier, Mail) pgengine.Definition) pgenginetest.Setup {
	return func(t testing.TB, pool *pgxpool.Pool) pgenginetest.Case {
		if _, err := pool.Exec(t.Context(), `
			CREATE TABLE stock (sku text PRIMARY KEY, warehouse text, quantity int CHECK (quantity >= 0));
			CREATE TABLE reservation (id bigint GENERATED ALWAYS AS IDENTITY, sku text, quantity int);
			INSERT INTO stock VALUES ('hat', 'Bern', 3)`); err != nil {
			t.Fatal(err)
		}
		s := &shop{money: map[string]Payment{}}
		return pgenginetest.Case{
			Saga:  saga(s, s, s, s),
			Input: Order{ID: "o-1", SKU: "hat", Quantity: 1, Cents: 1299, Email: "ann@example.com"},
			Verify: func(_ context.Context, _ *pgxpool.Pool, end pgengine.Status) error {
				if paid, want := len(s.money), end.State == pgengine.Completed; (paid == 1) != want && end.State != pgengine.Stuck {
					return fmt.Errorf("%d payments of an order that is %s", paid, end.State)
				}
				return nil
			},
		}
	}
}

// forgetful is a shop with a mistake in it.
type forgetful struct {
	*shop
	release, refund, find, key bool
}

func (f forgetful) Release(ctx context.Context, tx pgx.Tx, id int64) error {
	if f.release { // it deletes the reservation, and forgets the stock
		_, err := tx.Exec(ctx, `DELETE FROM reservation WHERE id = $1`, id)
		return err
	}
	return f.shop.Release(ctx, tx, id)
}

func (f forgetful) Refund(ctx context.Context, key, payment string) error {
	if f.refund {
		return nil
	}
	return f.shop.Refund(ctx, key, payment)
}

func (f forgetful) Find(ctx context.Context, key string) (Payment, bool, error) {
	if f.find { // it never finds anything
		return Payment{}, false, nil
	}
	return f.shop.Find(ctx, key)
}

func (f forgetful) Charge(ctx context.Context, key string, cents int64) (Payment, error) {
	if f.key { // it makes a key of its own for each try
		key += fmt.Sprint("#", len(f.money))
	}
	return f.shop.Charge(ctx, key, cents)
}

// TestAPlantedMistakeIsFound: each mistake shows with the faults that bring it out, and with no other.
func TestAPlantedMistakeIsFound(t *testing.T) {
	for name, test := range map[string]struct {
		plant forgetful
		shown string // a fault that must show it
		says  string
		never string // a fault that has nothing to do with it
	}{
		"an undo that forgets the stock": {forgetful{release: true}, "ship.Do fails for good", "table public.stock lacks the row (hat,Bern,3)", "ship.Do fails once"},
		"an undo that does nothing":      {forgetful{refund: true}, "ship.Do fails for good", "1 payments of an order that is compensated", "ship.Do fails once"},
		"a lookup that finds nothing":    {forgetful{find: true}, "charge.Do has its effect and never answers", "1 payments of an order that is compensated", "ship.Do fails once"},
		"a key of its own":               {forgetful{key: true}, "charge.Do has its effect and the answer is lost", "2 payments of an order that is completed", "ship.Do fails once"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			setup := fulfilment(func(_ Stock, b Bank, c Carrier, m Mail) pgengine.Definition {
				f := test.plant
				f.shop = b.(*shop)
				return Fulfil(f, f, f, f)
			})
			found := false
			for _, f := range pgenginetest.Matrix(t, setup) {
				wanted := f.String() == test.shown
				if !wanted && f.String() != test.never {
					continue
				}
				err := pgenginetest.Try(t, setup, f)
				switch {
				case wanted && (err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), f.String())):
					t.Errorf("%s: %v, want %q", f, err, test.says)
				case wanted:
					found = true
				case err != nil:
					t.Errorf("%s: %v", f, err)
				}
			}
			if !found {
				t.Errorf("no fault is %q", test.shown)
			}
		})
	}
}
