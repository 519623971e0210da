package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

//go:embed schema.sql
var schema string

// install makes the demo's tables. Two demos at once take turns, as CREATE ... IF NOT EXISTS can collide.
func install(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('pgsagaz demo'))"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SET LOCAL client_min_messages = warning;\n"+schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the demo's tables: %w", err)
	}
	return nil
}

var (
	errSoldOut  = errors.New("out of stock")
	errNoParcel = errors.New("no parcel leaves for there")
)

func reserveStock(ctx context.Context, tx pgx.Tx, o Order) (Reservation, error) {
	r := Reservation{SKU: o.SKU, Quantity: o.Quantity}
	tag, err := tx.Exec(ctx, `UPDATE demo.stock SET on_shelf = on_shelf - $3 WHERE run = $1 AND sku = $2 AND on_shelf >= $3`,
		o.Run, o.SKU, o.Quantity)
	if err != nil {
		return r, err
	}
	if tag.RowsAffected() == 0 {
		return r, pgengine.Terminal(fmt.Errorf("%w: %d of %s", errSoldOut, o.Quantity, o.SKU))
	}
	_, err = tx.Exec(ctx, `INSERT INTO demo.reservation (order_id, run, sku, quantity) VALUES ($1, $2, $3, $4)`,
		o.ID, o.Run, o.SKU, o.Quantity)
	return r, err
}

func releaseStock(ctx context.Context, tx pgx.Tx, orderID string) error {
	return one(tx.Exec(ctx, `
		WITH r AS (UPDATE demo.reservation SET state = 'released' WHERE order_id = $1 AND state = 'held' RETURNING run, sku, quantity)
		UPDATE demo.stock s SET on_shelf = on_shelf + r.quantity FROM r WHERE s.run = r.run AND s.sku = r.sku`, orderID))
}

func bookPayment(ctx context.Context, tx pgx.Tx, o Order, p Payment) error {
	_, err := tx.Exec(ctx, `INSERT INTO demo.payment (order_id, run, bank_id, cents) VALUES ($1, $2, $3, $4)`, o.ID, o.Run, p.ID, p.Cents)
	return err
}

// bookRefund may find no payment: of a charge whose answer was lost, only the refund is known here.
func bookRefund(ctx context.Context, tx pgx.Tx, o Order, p Payment) error {
	_, err := tx.Exec(ctx, `INSERT INTO demo.payment (order_id, run, bank_id, cents, state) VALUES ($1, $2, $3, $4, 'refunded')
		ON CONFLICT (order_id) DO UPDATE SET state = 'refunded'`, o.ID, o.Run, p.ID, p.Cents)
	return err
}

func shipParcel(ctx context.Context, tx pgx.Tx, o Order, r Reservation) (Parcel, error) {
	p := Parcel{OrderID: o.ID, SKU: r.SKU, Quantity: r.Quantity, Address: o.Address}
	if o.Address == farAway {
		return p, pgengine.Terminal(fmt.Errorf("%w: %s", errNoParcel, o.Address))
	}
	if err := one(tx.Exec(ctx, `
		WITH r AS (UPDATE demo.reservation SET state = 'shipped' WHERE order_id = $1 AND state = 'held' RETURNING run, sku, quantity)
		UPDATE demo.stock s SET shipped = shipped + r.quantity FROM r WHERE s.run = r.run AND s.sku = r.sku`, o.ID)); err != nil {
		return p, err
	}
	_, err := tx.Exec(ctx, `INSERT INTO demo.parcel (order_id, run, sku, quantity, address) VALUES ($1, $2, $3, $4, $5)`,
		o.ID, o.Run, r.SKU, r.Quantity, o.Address)
	return p, err
}

func callBackParcel(ctx context.Context, tx pgx.Tx, orderID string) error {
	if err := one(tx.Exec(ctx, `UPDATE demo.parcel SET state = 'called back' WHERE order_id = $1 AND state = 'sent'`, orderID)); err != nil {
		return err
	}
	return one(tx.Exec(ctx, `
		WITH r AS (UPDATE demo.reservation SET state = 'held' WHERE order_id = $1 AND state = 'shipped' RETURNING run, sku, quantity)
		UPDATE demo.stock s SET shipped = shipped - r.quantity FROM r WHERE s.run = r.run AND s.sku = r.sku`, orderID))
}

// one makes an error of a statement that found no row, or several.
func one(tag interface{ RowsAffected() int64 }, err error) error {
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("%d rows changed, not 1", tag.RowsAffected())
	}
	return err
}
