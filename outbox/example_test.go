package outbox_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/sql"
)

// A process that writes messages and publishes them. In another one, without a relay, the pool is made in the same way.
func Example() {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig("postgres://localhost/shop")
	if err != nil {
		log.Fatal(err)
	}
	sql.WakeOnCommit(config) // messages leave right after their commit
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	relay, err := outbox.NewRelay(pool, memorypub.New(memorypub.Config{}), outbox.Config{})
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(relay.Run(ctx)) }() // in an errgroup, with the rest of the program

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// The order's row is locked first: what is published of it is in the order of its changes.
		if _, err := tx.Exec(ctx, "UPDATE orders SET state = 'shipped' WHERE id = $1", "o-1"); err != nil {
			return err
		}
		reminder := outbox.JSON("orders.remind", "o-1", map[string]string{"order": "o-1"})
		reminder.NotBefore = time.Now().Add(24 * time.Hour)
		return outbox.Publish(ctx, tx, outbox.JSON("orders.shipped", "o-1", map[string]string{"parcel": "p-7"}), reminder)
	})
	if err != nil {
		log.Fatal(err)
	}
}

// An event that nobody orders by, published by the goroutine that commits it. A relay, here or elsewhere, sees to what fails.
func ExampleDirect() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/shop")
	if err != nil {
		log.Fatal(err)
	}
	direct, err := outbox.NewDirect(pool, memorypub.New(memorypub.Config{}), outbox.DirectConfig{})
	if err != nil {
		log.Fatal(err)
	}
	var send func(context.Context) error
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		send, err = direct.PublishAfterCommit(ctx, tx, outbox.JSON("cart.viewed", "", map[string]string{"cart": "c-1"}))
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := send(ctx); err != nil {
		log.Print("it leaves with the relay: ", err)
	}
}

// What an operator does about a dead letter, in a program.
func ExampleRedrive() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/shop")
	if err != nil {
		log.Fatal(err)
	}
	dead, err := outbox.DeadLetters(ctx, pool, outbox.DeadFilter{Topic: "orders.shipped"})
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range dead {
		err := sql.InTx(ctx, pool, func(tx pgx.Tx) error {
			r, err := outbox.Redrive(ctx, tx, d.ID, outbox.By{Actor: "Ann", Reason: "the topic is there now"})
			fmt.Println(d.EventID, "goes again; in order:", r.Ordered)
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
	}
}
