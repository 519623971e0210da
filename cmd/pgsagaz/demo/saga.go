package demo

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

type call = pgengine.Call[Order]

// Fulfil reserves stock and charges the card, then ships while it notifies. If the parcel cannot leave,
// the money and the stock go back.
//
//	reserve ── charge ─┬─ ship
//	                   └─ notify
func Fulfil(bank *BankClient, mail Mail) pgengine.Definition {
	// Shorter waits than a shop would have: this one is watched.
	soon := pgengine.Retry{MaxAttempts: 5, Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond}
	untilDone := pgengine.Retry{Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond}

	// In Postgres: exactly once.
	reserve := pgengine.TxStep[Order, Reservation]{
		Name:  "reserve",
		Retry: soon,
		Do: func(ctx context.Context, tx pgx.Tx, c call) (Reservation, error) {
			return reserveStock(ctx, tx, c.Input)
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c call, _ Reservation) error {
			return releaseStock(ctx, tx, c.Input.ID)
		},
	}

	// Outside: at least once, always with the same key.
	charge := pgengine.Activity[Order, Payment]{
		Name:      "charge",
		After:     pgengine.Steps(reserve),
		Retry:     soon,
		UndoRetry: untilDone,
		Do: func(ctx context.Context, c call) (Payment, error) {
			return bank.Charge(ctx, c.Key(), c.Input.Card, c.Input.Cents)
		},
		Commit: func(ctx context.Context, tx pgx.Tx, c call, p Payment) error {
			return bookPayment(ctx, tx, c.Input, p)
		},
		// No answer, and now the order turns back: did the charge happen? A no is final, as the bank
		// cancels the key with it: a charge that is still on its way will be refused.
		Lookup: func(ctx context.Context, c call) (Payment, bool, error) {
			return bank.FindOrCancel(ctx, c.Key(), c.Input.Card)
		},
		Undo: func(ctx context.Context, c call, _ Payment) error {
			return bank.Refund(ctx, c.Key(), c.Input.Card, c.DoKey())
		},
		UndoCommit: func(ctx context.Context, tx pgx.Tx, c call, p Payment) error {
			return bookRefund(ctx, tx, c.Input, p)
		},
	}

	// The parcel, its place in the stock and the message that tells of it, or none of them.
	ship := pgengine.TxStep[Order, Parcel]{
		Name:  "ship",
		After: pgengine.Steps(charge),
		Retry: soon,
		Do: func(ctx context.Context, tx pgx.Tx, c call) (Parcel, error) {
			p, err := shipParcel(ctx, tx, c.Input, reserve.Result(c))
			if err != nil {
				return p, err
			}
			return p, outbox.Publish(ctx, tx, outbox.JSON("orders.shipped", c.Input.ID, p))
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c call, p Parcel) error {
			return callBackParcel(ctx, tx, c.Input.ID)
		},
	}

	// A lost mail does not take an order back.
	notify := pgengine.Activity[Order, string]{
		Name:     "notify",
		After:    pgengine.Steps(charge),
		Optional: true,
		Retry:    pgengine.Retry{MaxAttempts: 2, Initial: 50 * time.Millisecond},
		Do: func(ctx context.Context, c call) (string, error) {
			return mail.Send(ctx, c.Key(), c.Input.Email, charge.Result(c))
		},
	}

	return pgengine.Saga[Order]{Version: 1, Output: ship, Steps: pgengine.Steps[Order](reserve, charge, ship, notify)}
}
