package amqppub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
)

// maxMessage is what .ci/brokers.sh makes RabbitMQ take, in bytes.
const maxMessage = 2 << 20

func open(t testing.TB, cfg amqppub.Config) *amqppub.Publisher {
	t.Helper()
	cfg.URL = brokertest.AMQP(t)
	p, err := amqppub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// side runs f on a channel of the test's own. Messages that f got and did not acknowledge go back in their order.
func side(t testing.TB, f func(ch *amqp.Channel) error) {
	t.Helper()
	c, err := amqp.Dial(brokertest.AMQP(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err == nil {
		err = f(ch)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newTopic makes an exchange, and a queue of the same name that takes all its messages.
func newTopic(t testing.TB, args amqp.Table) string {
	t.Helper()
	name := brokertest.Name("test")
	side(t, func(ch *amqp.Channel) error {
		return errors.Join(ch.ExchangeDeclare(name, "topic", true, false, false, false, nil), queue(ch, name, args))
	})
	t.Cleanup(func() { remove(t, name) })
	return name
}

func queue(ch *amqp.Channel, name string, args amqp.Table) error {
	if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
		return err
	}
	return ch.QueueBind(name, "#", name, false, nil)
}

func remove(t testing.TB, name string) {
	side(t, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(name, false, false, false)
		return errors.Join(err, ch.ExchangeDelete(name, false, false))
	})
}

func newEvent(topic, key string) outbox.Event {
	return outbox.Event{ID: uuid.Must(uuid.NewV7()), Topic: topic, Key: key, RoutingKey: "a.b", Type: "t", Payload: []byte("x"), CreatedAt: time.Now()}
}

func deliveries(t testing.TB, queue string) (got []amqp.Delivery) {
	t.Helper()
	side(t, func(ch *amqp.Channel) error {
		for {
			d, ok, err := ch.Get(queue, false)
			if err != nil || !ok {
				return err
			}
			got = append(got, d)
		}
	})
	return got
}

func read(t testing.TB, queue string) []outbox.Event {
	t.Helper()
	var events []outbox.Event
	for _, d := range deliveries(t, queue) {
		headers := map[string]string{}
		for name, value := range d.Headers {
			if text, ok := value.(string); ok { // a quorum queue adds numbers of its own
				headers[name] = text
			}
		}
		if d.ContentType != "" {
			headers["content-type"] = d.ContentType
		}
		e, err := outbox.Decode(headers, d.Body)
		if err != nil {
			t.Fatal(err)
		}
		if d.MessageId != e.ID.String() || d.Type != e.Type || d.DeliveryMode != amqp.Persistent {
			t.Errorf("message id %s, type %s, delivery mode %d", d.MessageId, d.Type, d.DeliveryMode)
		}
		e.Topic, e.RoutingKey = d.Exchange, d.RoutingKey
		events = append(events, e)
	}
	return events
}

func ids(events []outbox.Event) (ids []uuid.UUID) {
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

// firsts are the first occurrences.
func firsts(ids []uuid.UUID) (first []uuid.UUID) {
	for _, id := range ids {
		if !slices.Contains(first, id) {
			first = append(first, id)
		}
	}
	return first
}

func rejected(err error) bool { return errors.As(err, new(*outbox.RejectedError)) }

// must publishes as the relay does: again, until it is acknowledged.
func must(t testing.TB, p outbox.Publisher, e outbox.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := p.Publish(ctx, []outbox.Event{e})[0]
		if err == nil {
			return
		}
		if rejected(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func keys(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("key %d", i))
	}
	return keys
}
