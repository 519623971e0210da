package pgengine_test

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Order is what the customer asks for.
type Order struct {
	ID, SKU, Email string
	Quantity       int
	Cents          int64
}

func (Order) SagaName() string { return "order" }

type call = pgengine.Call[Order]

// Fulfil reserves stock and charges the card, then ships while it notifies.
// If the parcel cannot leave, the money and the stock go back.
func Fulfil(stock Stock, bank Bank, carrier Carrier, mail Mail) pgengine.Definition {
	reserve := pgengine.TxStep[Order, Reservation]{
		Name: "reserve",
		Do: func(ctx context.Context, tx pgx.Tx, c call) (Reservation, error) {
			return stock.Reserve(ctx, tx, c.Input.SKU, c.Input.Quantity)
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c call, r Reservation) error {
			return stock.Release(ctx, tx, r.ID)
		},
	}
	charge := pgengine.Activity[Order, Payment]{
		Name:   "charge",
		After:  pgengine.Steps(reserve),
		Retry:  pgengine.Retry{MaxAttempts: 5, Initial: time.Second, Max: time.Minute},
		Do:     func(ctx context.Context, c call) (Payment, error) { return bank.Charge(ctx, c.Key(), c.Input.Cents) },
		Lookup: func(ctx context.Context, c call) (Payment, bool, error) { return bank.Find(ctx, c.Key()) }, // did it happen?
		Undo:   func(ctx context.Context, c call, p Payment) error { return bank.Refund(ctx, c.Key(), p.ID) },
	}
	ship := pgengine.Activity[Order, Parcel]{
		Name:  "ship",
		After: pgengine.Steps(charge),
		Do: func(ctx context.Context, c call) (Parcel, error) {
			return carrier.Ship(ctx, c.Key(), reserve.Result(c).Warehouse)
		},
		Commit: func(ctx context.Context, tx pgx.Tx, c call, p Parcel) error {
			return outbox.Publish(ctx, tx, outbox.JSON("orders.shipped", c.Input.ID, p))
		},
	}
	notify := pgengine.Activity[Order, string]{
		Name:     "notify",
		After:    pgengine.Steps(charge),
		Optional: true, // a lost mail does not take an order back
		Do: func(ctx context.Context, c call) (string, error) {
			return mail.Send(ctx, c.Key(), c.Input.Email, charge.Result(c).Receipt)
		},
	}
	return pgengine.Saga[Order]{Version: 1, Output: ship, Steps: pgengine.Steps(reserve, charge, ship, notify)}
}
