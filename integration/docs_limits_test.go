package integration_test

import (
	"context"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// What docs/limits.md takes for granted.
type (
	Order struct {
		Merchant string
		Cents    int64
	}
	Payment struct{ ID string }
	Bank    interface {
		Charge(ctx context.Context, key string, cents int64) (Payment, error)
	}
)

func (Order) SagaName() string { return "order" }

var _ = Charge

// Charge calls a bank that allows ten calls at once, and of each merchant two in a second.
func Charge(bank Bank) pgengine.Activity[Order, Payment] {
	return pgengine.Activity[Order, Payment]{
		Name: "charge",
		Limit: pgengine.Limit[Order]{
			Name: "bank", Concurrency: 10, Rate: 2, Per: time.Second,
			Key: func(c pgengine.Call[Order]) string { return c.Input.Merchant },
		},
		Do: func(ctx context.Context, c pgengine.Call[Order]) (Payment, error) {
			return bank.Charge(ctx, c.Key(), c.Input.Cents)
		},
	}
}
