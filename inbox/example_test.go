package inbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// A consumer of a broker's messages. source is a kafkasub, amqpsub, redissub or memorysub source.
func ExampleNewConsumer() {
	run := func(ctx context.Context, pool *pgxpool.Pool, source inbox.Source) error {
		shipped := func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
			var parcel struct {
				Order string `json:"order"`
			}
			if err := json.Unmarshal(m.Payload, &parcel); err != nil {
				return inbox.Terminal(err) // no use in trying again
			}
			_, err := tx.Exec(ctx, `UPDATE orders SET shipped = true WHERE id = $1`, parcel.Order)
			return err
		}
		consumer, err := inbox.NewConsumer(pool, source, inbox.ByType(map[string]inbox.Handler{
			"orders.shipped": shipped,
		}, inbox.Ignore), inbox.Config{Name: "orders"})
		if err != nil {
			return err
		}
		return consumer.Run(ctx)
	}
	_ = run
}

// A claim in a transaction of one's own.
func ExampleClaim() {
	pay := func(ctx context.Context, pool *pgxpool.Pool, paymentID string, cents int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			first, err := inbox.Claim(ctx, tx, "accounting", paymentID, &inbox.ClaimOptions{Source: "bank"})
			if err != nil || !first {
				return err
			}
			_, err = tx.Exec(ctx, `UPDATE account SET cents = cents + $1`, cents)
			return err
		})
	}
	_ = pay
}

// Webhooks are a source: they are deduplicated, retried and dead-lettered as a broker's messages are.
func ExampleWebhook() {
	run := func(ctx context.Context, pool *pgxpool.Pool, mux *http.ServeMux, secret []byte, handler inbox.Handler) error {
		hook, err := inbox.NewWebhook(inbox.WebhookConfig{
			Verify: inbox.HMAC("X-Hub-Signature-256", secret),
			Message: func(r *http.Request, _ []byte) (inbox.Message, error) {
				return inbox.Message{ID: r.Header.Get("X-Github-Delivery"), Source: "github", Type: r.Header.Get("X-Github-Event")}, nil
			},
		})
		if err != nil {
			return err
		}
		mux.Handle("/hooks/github", hook)
		consumer, err := inbox.NewConsumer(pool, hook, handler, inbox.Config{Name: "github"})
		if err != nil {
			return err
		}
		return consumer.Run(ctx)
	}
	_ = run
}

func ExampleEventID() {
	fmt.Println(inbox.EventID("shop", "0190b0f0-7e7e-7000-8000-000000000001"))
	fmt.Println(inbox.EventID("shop", "evt-123"))
	// Output:
	// 0190b0f0-7e7e-7000-8000-000000000001
	// ff9c2cdd-7b92-8d9e-9afd-f50f1ae09ec4
}
