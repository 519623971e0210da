package outbox

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// buckets is how many shares of the keys relays can have. It is part of the stored format.
const buckets = 256

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

	// Serialize puts the writers of Key in an order, for those that hold no lock of their own on what the
	// message tells of: Publish waits for other transactions that have published to the key in this way,
	// until they end. A transaction that calls Publish more than once can deadlock with another that
	// takes the keys in another order; one call takes them in one order.
	Serialize bool
	// NotBefore keeps the message back until then, by the database's clock. It takes its place in the
	// order of its key when it is due. Zero: it leaves at once.
	NotBefore time.Time

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
	ErrNotText  = errors.New("outbox: not text, which is UTF-8 without the character zero")
	// ErrFull: a limit on pending messages is set, and reached. Nothing was written; try again later.
	ErrFull = errors.New("outbox: too many messages are pending")
)

// Publish writes messages in tx. Inside a step their saga and step are recorded with them, and their payloads lie in the database
// as the saga's do (see [codec.With], which says so elsewhere). All messages
// are checked before the first is written. After an error the transaction must be rolled back. An erasure of the subject waits for its
// end; after one, the error is [codec.ErrErased].
//
// What tells relays of the commit is [sql.WakeOnCommit] or [sql.InTx]; without either their poll finds
// the messages.
func Publish(ctx context.Context, tx pgx.Tx, messages ...Message) error {
	if len(messages) == 0 {
		return nil
	}
	sagaID, step := sql.StepFrom(ctx)
	if len(messages) == 1 && messages[0].NotBefore.IsZero() && !messages[0].Serialize {
		return publishOne(ctx, tx, messages[0], sagaID, step)
	}
	var now, later rows
	var locks []string
	var sealed []byte // any payload: all are of one subject
	for i, m := range messages {
		m.tracedBy(ctx)
		headers, err := m.complete()
		if err != nil {
			return fmt.Errorf("publish message %d of %d (topic %q, key %q): %w", i+1, len(messages), m.Topic, m.Key, err)
		}
		if err := m.seal(ctx, tx); err != nil {
			return fmt.Errorf("publish message %d of %d (topic %q, key %q): %w", i+1, len(messages), m.Topic, m.Key, err)
		}
		sealed = m.Payload
		if m.Serialize && m.Key != "" {
			locks = append(locks, m.Key)
		}
		if m.NotBefore.IsZero() {
			now.add(m, headers)
		} else {
			later.add(m, headers)
		}
	}
	b := &pgx.Batch{}
	holdSubject(b, sealed)
	if len(locks) > 0 {
		b.Queue(sql.OutboxSerialize, locks)
	}
	if n := len(now.ids); n > 0 {
		b.Queue(sql.OutboxInsert, now.args(sagaID, step)...).Exec(func(tag pgconn.CommandTag) error { return written(tag, n) })
	}
	if n := len(later.ids); n > 0 {
		b.Queue(sql.OutboxSchedule, append(later.args(sagaID, step), later.due)...).Exec(func(tag pgconn.CommandTag) error { return written(tag, n) })
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return failed(err, sealed)
	}
	for _, bucket := range now.buckets {
		wakeLater(tx, bucket)
	}
	for i, bucket := range later.buckets {
		if time.Until(later.due[i]) < dueMost { // before the relays look by themselves
			wakeLater(tx, bucket)
		}
	}
	return nil
}

// publishOne is Publish for what most transactions do: one statement, not in a batch, saves a tenth of them.
func publishOne(ctx context.Context, tx pgx.Tx, m Message, sagaID, step string) error {
	m.tracedBy(ctx)
	headers, err := m.complete()
	if err != nil {
		return fmt.Errorf("publish message 1 of 1 (topic %q, key %q): %w", m.Topic, m.Key, err)
	}
	if err := m.seal(ctx, tx); err != nil {
		return fmt.Errorf("publish message 1 of 1 (topic %q, key %q): %w", m.Topic, m.Key, err)
	}
	bucket := bucket(m.Key, m.ID)
	args := []any{m.ID.String(), bucket, m.Topic, m.Key, m.RoutingKey, m.Type, m.Payload, headers, m.TraceParent, sagaID, step}
	var b pgx.Batch
	if holdSubject(&b, m.Payload); b.Len() > 0 {
		b.Queue(sql.OutboxInsertOne, args...).Exec(func(tag pgconn.CommandTag) error { return written(tag, 1) })
		err = tx.SendBatch(ctx, &b).Close()
	} else {
		var tag pgconn.CommandTag
		if tag, err = tx.Exec(ctx, sql.OutboxInsertOne, args...); err == nil {
			err = written(tag, 1)
		}
	}
	if err != nil {
		return failed(err, m.Payload)
	}
	wakeLater(tx, bucket)
	return nil
}

// written says so if less was written than was asked for.
func written(tag pgconn.CommandTag, n int) error {
	if got := int(tag.RowsAffected()); got != n {
		return fmt.Errorf("outbox: %d of %d messages were written: the row of pgsagaz.outbox_state is missing", got, n)
	}
	return nil
}

// failed names the error of a statement that was to write messages, with a payload of theirs.
func failed(err error, payload []byte) error {
	switch sql.State(err) {
	case sql.StateOutboxFull:
		err = fmt.Errorf("%w: %w", ErrFull, err)
	case sql.StateErased:
		err = &codec.Error{Place: "a message", Key: codec.Under(payload), Err: codec.ErrErased}
	}
	return fmt.Errorf("publish: %w", err)
}

func wakeLater(tx pgx.Tx, bucket int16) {
	sql.WakeLater(tx.Conn(), sql.OutboxQueue+strconv.Itoa(int(bucket)))
}

// complete checks a message, gives it what it may leave out, and returns its headers as they are stored.
func (m *Message) complete() (headers string, err error) {
	switch {
	case m.err != nil:
		return "", m.err
	case m.Topic == "":
		return "", ErrNoTopic
	case len(m.Payload) > MaxPayload:
		return "", fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(m.Payload), MaxPayload)
	}
	if m.ID == uuid.Nil {
		id, err := uuid.NewV7()
		if err != nil {
			return "", err
		}
		m.ID = id
		if !m.NotBefore.IsZero() { // consumers tell by it how old a message is
			putMillis(&m.ID, m.NotBefore.UnixMilli())
		}
	}
	if m.Type == "" {
		m.Type = m.Topic
	}
	if m.RoutingKey == "" {
		m.RoutingKey = m.Type
	}
	for _, field := range [...]struct{ name, text string }{
		{"topic", m.Topic}, {"key", m.Key}, {"routing key", m.RoutingKey}, {"type", m.Type}, {"traceparent", m.TraceParent},
	} {
		if !isText(field.text) {
			return "", fmt.Errorf("%w: the %s is %q", ErrNotText, field.name, field.text)
		}
	}
	if len(m.Headers) == 0 {
		return "{}", nil
	}
	for name, value := range m.Headers {
		if !isText(name) || !isText(value) {
			return "", fmt.Errorf("%w: the header %q", ErrNotText, name)
		}
	}
	encoded, err := json.Marshal(m.Headers)
	return string(encoded), err
}

// isText says whether Postgres takes it, and gives it back as it is.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// putMillis writes the time into a UUIDv7.
func putMillis(id *uuid.UUID, ms int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(ms))
	copy(id[:6], b[2:])
}

// rows are messages as the statements take them, a column a slice.
type rows struct {
	ids                              []string
	buckets                          []int16
	topics, keys, routingKeys, types []string
	payloads                         [][]byte
	headers, traceParents            []string
	due                              []time.Time
}

func (r *rows) add(m Message, headers string) {
	r.ids, r.buckets = append(r.ids, m.ID.String()), append(r.buckets, bucket(m.Key, m.ID))
	r.topics, r.keys, r.routingKeys, r.types = append(r.topics, m.Topic), append(r.keys, m.Key), append(r.routingKeys, m.RoutingKey), append(r.types, m.Type)
	r.payloads, r.headers, r.traceParents = append(r.payloads, m.Payload), append(r.headers, headers), append(r.traceParents, m.TraceParent)
	r.due = append(r.due, m.NotBefore)
}

func (r *rows) args(sagaID, step string) []any {
	return []any{r.ids, r.buckets, r.topics, r.keys, r.routingKeys, r.types, r.payloads, r.headers, r.traceParents, sagaID, step}
}

// bucket spreads keys over what relays share out among themselves. It is part of the stored format:
// pgsagaz.outbox_bucket_of computes the same.
func bucket(key string, id uuid.UUID) int16 {
	if key == "" {
		return int16(id[15])
	}
	h := sha256.Sum256([]byte(key))
	return int16(h[0])
}
