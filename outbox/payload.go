package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Payloads are encoded where they are published, and decoded right before the broker gets them. In between, in whatever
// table they lie, nobody needs to know.

// place is what a payload is encoded as: it decodes in no other message.
func place(id uuid.UUID, topic string) string { return "message " + id.String() + " to " + topic }

// seal encodes the payload by what ctx says: inside a step or a handler, as its saga's or its message's.
func (m *Message) seal(ctx context.Context, tx pgx.Tx) (err error) {
	m.Payload, err = codec.EncodeFor(ctx, tx, place(m.ID, m.Topic), m.Payload)
	return err
}

// holdSubject keeps a payload's subject from being erased until tx ends: an erasure that is not by force must not pass over a message
// that is about to commit, as it would find no key when it is to leave.
//
//	Publish                            Erase
//	holds the row of the key
//	                                   wants it for itself, and waits
//	writes, COMMIT
//	                                   counts what is pending, this too: refused
//
// What is nobody's does not come here, and pays nothing. The messages of a call are of one subject, that of ctx.
func holdSubject(b *pgx.Batch, payload []byte) {
	if k := codec.Under(payload); k != (codec.Key{}) {
		b.Queue(sql.DataKeyHold, k.String())
	}
}

// opener is a publisher that decodes what it hands on.
type opener struct {
	Publisher
	codec *codec.Codec // nil: none, and what is encoded does not leave
	db    sql.Querier
}

// Publish decodes, and holds to the contract of a Publisher: behind an event that can't be decoded, none of its key leaves. One
// whose subject was erased, or that was damaged, is rejected. One whose key is not to be had here waits, as for a broker that is down.
func (o *opener) Publish(ctx context.Context, events []Event) []error {
	if !slices.ContainsFunc(events, func(e Event) bool { return codec.IsEncoded(e.Payload) }) {
		return o.Publisher.Publish(ctx, events)
	}
	errs := make([]error, len(events))
	stopped := map[string]bool{}
	stored := make([][]byte, 0, len(events))
	for _, e := range events {
		stored = append(stored, e.Payload)
	}
	if err := o.codec.Load(ctx, o.db, stored...); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	var good []Event
	var at []int
	for i, e := range events {
		if stopped[e.Key] {
			errs[i] = ErrHeld
			continue
		}
		var err error
		if e.Payload, _, err = o.codec.Decode(ctx, o.db, place(e.ID, e.Topic), e.Payload); err != nil {
			if c, ok := errors.AsType[*codec.Error](err); ok && c.Final() {
				err = &RejectedError{err}
			}
			errs[i] = err
			stopped[e.Key] = e.Key != ""
			continue
		}
		good, at = append(good, e), append(at, i)
	}
	if len(good) == 0 {
		return errs
	}
	said := o.Publisher.Publish(ctx, good)
	if len(said) != len(good) {
		return said // which breaks the contract, and is told of
	}
	failed := map[string]bool{}
	next := 0
	for i, e := range events {
		if next < len(at) && at[next] == i {
			errs[i] = said[next]
			next++
		} else if failed[e.Key] { // it is not its turn to be blamed
			errs[i] = ErrHeld
		}
		failed[e.Key] = failed[e.Key] || errs[i] != nil && e.Key != ""
	}
	return errs
}

// Kept is a message that lies in the database.
type Kept struct {
	In        string    `json:"in"` // the table: outbox, outbox_stuck, outbox_scheduled, outbox_dead, outbox_archive
	EventID   uuid.UUID `json:"event_id"`
	Topic     string    `json:"topic"`
	Key       string    `json:"key,omitempty"`
	Type      string    `json:"type"`
	SagaID    string    `json:"saga_id,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	Payload   []byte    `json:"payload,omitempty"`
}

// OfKey lists the messages whose payloads are under a data key, decoded by c, wherever they lie. It reads the tables from end to
// end.
func OfKey(ctx context.Context, db sql.Querier, c *codec.Codec, k codec.Key) ([]Kept, error) {
	rows, err := db.Query(ctx, sql.OutboxOfKey, k.String())
	if err != nil {
		return nil, fmt.Errorf("messages of a subject: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Kept, err error) {
		return m, row.Scan(&m.In, (*[16]byte)(&m.EventID), &m.Topic, &m.Key, &m.Type, &m.SagaID, &m.CreatedAt, &m.Payload)
	})
	if err != nil {
		return nil, fmt.Errorf("messages of a subject: %w", err)
	}
	for i := range list {
		m := &list[i]
		if err := shown(ctx, db, c, place(m.EventID, m.Topic), &m.Payload); err != nil {
			return nil, fmt.Errorf("messages of a subject: %w", err)
		}
	}
	return list, nil
}

// shown decodes for people: what can't be decoded is replaced by a word for why.
func shown(ctx context.Context, db sql.Querier, c *codec.Codec, place string, payload *[]byte) error {
	plain, _, err := c.Decode(ctx, db, place, *payload)
	if errors.As(err, new(*codec.Error)) {
		plain, err = codec.Shown(err), nil
	}
	if err == nil {
		*payload = plain
	}
	return err
}
