package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Finding is one rule of the audit, and what breaks it.
type Finding struct {
	Rule  string   `json:"rule"`
	OK    bool     `json:"ok"`
	Wrong []string `json:"wrong,omitempty"` // the first few
}

// books are what the tables say of one order.
type books struct {
	ID, SagaID, Doomed string
	Quantity           int
	Cents              int64
	Parcels            int    // that are on their way
	Held               bool   // stock is still reserved
	Paid               int64  // by the shop's books
	Charges, Refunds   int    // by the bank's, as moves of money
	Net                int64  // what the bank keeps, in cents
	BankState          string // of the charge; "": it never came to one
}

type shelf struct {
	SKU                                string
	Initial, OnShelf, Shipped, Parcels int
}

// audit holds what was read; the rules read no more.
type audit struct {
	orders     []books
	shelves    []shelf
	sagas      map[string]pgengine.Status
	violations []sql.Violation
	doomed     int
	expected   int
}

func (r *run) newAudit(ctx context.Context, sagas map[string]pgengine.Status) (*audit, error) {
	a := &audit{sagas: sagas, expected: r.Orders}
	err := pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT o.id, o.saga_id::text, o.doomed, o.quantity, o.cents,
			       (SELECT count(*) FROM demo.parcel p WHERE p.order_id = o.id AND p.state = 'sent'),
			       EXISTS (SELECT FROM demo.reservation r WHERE r.order_id = o.id AND r.state = 'held'),
			       coalesce((SELECT p.cents FROM demo.payment p WHERE p.order_id = o.id AND p.state = 'paid'), 0),
			       e.charges, e.refunds, e.net,
			       coalesce((SELECT c.state FROM bank.charge c WHERE c.key = o.saga_id || '/charge'), '')
			FROM demo.orders o,
			     LATERAL (SELECT count(*) FILTER (WHERE cents > 0) AS charges, count(*) FILTER (WHERE cents < 0) AS refunds,
			                     coalesce(sum(cents), 0)::bigint AS net
			              FROM bank.entry WHERE key = o.saga_id || '/charge') e
			WHERE o.run = $1 ORDER BY o.id`, r.id)
		if err != nil {
			return err
		}
		if a.orders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[books]); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `
			SELECT s.sku, s.initial, s.on_shelf, s.shipped,
			       (SELECT coalesce(sum(p.quantity), 0) FROM demo.parcel p WHERE p.run = s.run AND p.sku = s.sku AND p.state = 'sent')
			FROM demo.stock s WHERE s.run = $1 ORDER BY s.sku`, r.id)
		if err != nil {
			return err
		}
		a.shelves, err = pgx.CollectRows(rows, pgx.RowToStructByPos[shelf])
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, o := range a.orders {
		if o.Doomed != "" {
			a.doomed++
		}
	}
	all, err := r.engine.Check(ctx)
	for _, v := range all {
		if _, ours := sagas[v.SagaID]; ours {
			a.violations = append(a.violations, v)
		}
	}
	return a, err
}

// findings applies every rule.
func (a *audit) findings() (all []Finding, ok bool) {
	ok = true
	for _, rule := range []struct {
		name  string
		wrong func() []string
	}{
		{"every order has its saga, and every saga has ended", a.ended},
		{"the stock adds up: what was there = what is left + what was shipped", a.stock},
		{"the money adds up: the bank keeps what the shop has booked, for completed orders alone", a.money},
		{"each completed order was charged once, not refunded, and has one parcel", a.completed},
		{"each compensated order has no charge left, no parcel and no reservation", a.compensated},
		{"no order that could not succeed did", a.impossible},
		{"no row exists that must not (pgsagaz check)", a.rows},
	} {
		wrong := rule.wrong()
		const most = 5
		if len(wrong) > most {
			wrong = append(wrong[:most:most], fmt.Sprintf("... and %d more", len(wrong)-most))
		}
		all = append(all, Finding{Rule: rule.name, OK: len(wrong) == 0, Wrong: wrong})
		ok = ok && len(wrong) == 0
	}
	return all, ok
}

func (a *audit) ended() (wrong []string) {
	if len(a.orders) != a.expected || len(a.sagas) != a.expected {
		wrong = append(wrong, fmt.Sprintf("%d orders were to be placed, %d are there, with %d sagas", a.expected, len(a.orders), len(a.sagas)))
	}
	for _, o := range a.orders {
		if s, there := a.sagas[o.SagaID]; !there {
			wrong = append(wrong, fmt.Sprintf("order %s: saga %s is not there", o.ID, o.SagaID))
		} else if !s.State.Ended() {
			wrong = append(wrong, fmt.Sprintf("order %s: saga %s is %s", o.ID, o.SagaID, s.State))
		}
	}
	return wrong
}

func (a *audit) stock() (wrong []string) {
	for _, s := range a.shelves {
		if s.Initial != s.OnShelf+s.Shipped || s.Shipped != s.Parcels {
			wrong = append(wrong, fmt.Sprintf("%s: %d were there, %d are left, %d are booked as shipped, %d are in parcels",
				s.SKU, s.Initial, s.OnShelf, s.Shipped, s.Parcels))
		}
	}
	return wrong
}

func (a *audit) money() (wrong []string) {
	var kept, booked, earned int64
	for _, o := range a.orders {
		kept += o.Net
		booked += o.Paid
		if a.sagas[o.SagaID].State == pgengine.Completed {
			earned += o.Cents
		}
		if o.Net != o.Paid {
			wrong = append(wrong, fmt.Sprintf("order %s: the bank keeps %d cents, the shop has booked %d", o.ID, o.Net, o.Paid))
		}
	}
	if kept != earned || booked != earned {
		wrong = append(wrong, fmt.Sprintf("in all: completed orders cost %d cents, the bank keeps %d, the shop has booked %d", earned, kept, booked))
	}
	return wrong
}

func (a *audit) completed() (wrong []string) {
	for _, o := range a.orders {
		if a.sagas[o.SagaID].State == pgengine.Completed &&
			(o.Charges != 1 || o.Refunds != 0 || o.Net != o.Cents || o.BankState != "charged" || o.Parcels != 1) {
			wrong = append(wrong, fmt.Sprintf("order %s for %d cents: %d charges, %d refunds, %d cents kept, %d parcels, the charge is %q",
				o.ID, o.Cents, o.Charges, o.Refunds, o.Net, o.Parcels, o.BankState))
		}
	}
	return wrong
}

func (a *audit) compensated() (wrong []string) {
	for _, o := range a.orders {
		if a.sagas[o.SagaID].State == pgengine.Compensated &&
			(o.Charges > 1 || o.Charges != o.Refunds || o.Net != 0 || o.BankState == "charged" || o.Parcels != 0 || o.Held) {
			wrong = append(wrong, fmt.Sprintf("order %s: %d charges, %d refunds, %d cents kept, %d parcels, still reserved: %t, the charge is %q",
				o.ID, o.Charges, o.Refunds, o.Net, o.Parcels, o.Held, o.BankState))
		}
	}
	return wrong
}

func (a *audit) impossible() (wrong []string) {
	for _, o := range a.orders {
		if o.Doomed != "" && a.sagas[o.SagaID].State == pgengine.Completed {
			wrong = append(wrong, fmt.Sprintf("order %s (%s) is completed", o.ID, o.Doomed))
		}
	}
	return wrong
}

func (a *audit) rows() (wrong []string) {
	for _, v := range a.violations {
		wrong = append(wrong, v.String())
	}
	return wrong
}
