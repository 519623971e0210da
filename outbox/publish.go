package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// MaxPayload is the largest payload of a message, in bytes: what brokers take by default.
const MaxPayload = 1 << 20

// Message is an event on its way to a broker.
type Message struct {
	ID         uuid.UUID // a UUIDv7; zero: made by Publish
	Topic      string    // Kafka's topic, AMQP's exchange
	Key        string    // messages of one key keep their order; "": no order
	RoutingKey string    // AMQP's; "": Type
	Type       string    // what happened, say orders.shipped; "": Topic
	Payload    []byte
	Headers    map[string]string
	// TraceParent is the W3C trace context of the writer.
	TraceParent string

	err error // of making it; Publish returns it
}

// JSON makes a message of v. An error of marshalling comes out of [Publish].
func JSON(topic, key string, v any) Message {
	payload, err := json.Marshal(v)
	if err != nil {
		err = fmt.Errorf("payload of type %T does not marshal: %w", v, err)
	}
	return Message{Topic: topic, Key: key, Payload: payload, Headers: map[string]string{"content-type": "application/json"}, err: err}
}

// What Publish refuses, to be asked with errors.Is.
var (
	ErrNoTopic  = errors.New("outbox: message without a topic")
	ErrTooLarge = errors.New("outbox: payload too large")
)

const buckets = 256

// Publish writes messages in tx. Inside a step their saga and step are recorded with them. All messages
// are checked before the first is written. After an error the transaction must be rolled back.
func Publish(ctx context.Context, tx pgx.Tx, messages ...Message) error {
	sagaID, step := sql.StepFrom(ctx)
	b := &pgx.Batch{}
	for i, m := range messages {
		if err := m.check(); err != nil {
			return fmt.Errorf("publish message %d of %d (topic %q, key %q): %w", i+1, len(messages), m.Topic, m.Key, err)
		}
		if m.ID == uuid.Nil {
			id, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("publish: %w", err)
			}
			m.ID = id
		}
		if m.Type == "" {
			m.Type = m.Topic
		}
		if m.RoutingKey == "" {
			m.RoutingKey = m.Type
		}
		if m.Headers == nil {
			m.Headers = map[string]string{}
		}
		headers, err := json.Marshal(m.Headers)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		b.Queue(sql.OutboxInsert, m.ID.String(), bucket(m), m.Topic, nullable(m.Key), m.RoutingKey, m.Type, m.Payload,
			string(headers), nullable(m.TraceParent), nullable(sagaID), nullable(step))
	}
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

func (m Message) check() error {
	switch {
	case m.err != nil:
		return m.err
	case m.Topic == "":
		return ErrNoTopic
	case len(m.Payload) > MaxPayload:
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(m.Payload), MaxPayload)
	}
	return nil
}

// bucket spreads keys over what relays share out among themselves. It is part of the stored format.
func bucket(m Message) int16 {
	h := fnv.New32a()
	if m.Key == "" {
		h.Write(m.ID[:])
	} else {
		h.Write([]byte(m.Key))
	}
	return int16(h.Sum32() % buckets)
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
