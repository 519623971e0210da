//lint:file-ignore SA4006 as in the document, where errors are left to the reader

package integration_test

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Order is what docs/payloads.md takes for granted.
type Order struct{ CustomerID string }

func (Order) SagaName() string { return "order" }

func (o Order) Subject() string { return o.CustomerID }

// docs/payloads.md: the codec is given to all who read or write payloads.
func _(ctx context.Context, pool *pgxpool.Pool, file []byte, sagas []pgengine.Definition, publisher outbox.Publisher, source inbox.Source,
	handler inbox.Handler, whose func(inbox.Message) string,
) (*pgengine.Engine, *outbox.Relay, *inbox.Consumer, error) {
	ring, err := codec.ParseKeys(string(file)) // or a KMS of yours: codec.Keyring has three methods
	c, err := codec.New(codec.Config{Keyring: ring, Compress: true})
	engine, err := pgengine.New(pool, pgengine.Config{Codec: c, Sagas: sagas})
	relay, err := outbox.NewRelay(pool, publisher, outbox.Config{Codec: c})
	consumer, err := inbox.NewConsumer(pool, source, handler, inbox.Config{Name: "billing", Codec: c, Subject: whose})
	return engine, relay, consumer, err
}
