package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// payloads is how payloads of messages are kept: with an entry, where the consumer keeps them, and with a dead letter.
type payloads struct {
	codec   *codec.Codec // nil: as they are
	subject func(Message) string
}

// place is what a payload is encoded as: it decodes in no other entry.
func place(consumer, eventID string) string { return "inbox of " + consumer + ", event " + eventID }

// of is whose a message is.
func (p payloads) of(m *Message) string {
	if p.codec == nil || p.subject == nil {
		return ""
	}
	return p.subject(*m)
}

// seal encodes the payload of a message. That of one whose subject was erased is not kept.
func (p payloads) seal(ctx context.Context, db sql.Querier, consumer string, id uuid.UUID, m *Message) ([]byte, error) {
	k, err := p.codec.KeyOf(ctx, db, p.of(m))
	var stored []byte
	if err == nil {
		stored, err = p.codec.Encode(ctx, db, k, place(consumer, id.String()), m.Payload)
	}
	if c, ok := errors.AsType[*codec.Error](err); ok && errors.Is(err, codec.ErrErased) {
		return codec.Erased(c.Key), nil
	}
	if errors.Is(err, codec.ErrSubject) { // it will not have another the next time
		err = Terminal(err)
	}
	return stored, err
}

// unkeepable says whether a payload can't be sealed for a fault of its message's own. A key that is damaged is none: with the right keyring it
// may be read, so the message waits for that.
func unkeepable(err error) bool { return errors.Is(err, codec.ErrSubject) }

// inHandler says in the context of a handler how what it publishes is kept.
func (p payloads) inHandler(ctx context.Context, m *Message) context.Context {
	if p.codec == nil {
		return ctx
	}
	return codec.With(ctx, p.codec, p.of(m))
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

// Kept is a message that lies in the database.
type Kept struct {
	In       string    `json:"in"` // the table: consumer_inbox or inbox_dead
	Consumer string    `json:"consumer"`
	EventID  string    `json:"event_id"`
	Topic    string    `json:"topic"`
	Type     string    `json:"type"`
	At       time.Time `json:"at"` // when it was taken, or given up
	Payload  []byte    `json:"payload,omitempty"`
}

// OfKey lists the messages whose payloads are under a data key, decoded by c: entries with payloads, and dead letters. It reads the
// tables from end to end.
func OfKey(ctx context.Context, db sql.Querier, c *codec.Codec, k codec.Key) ([]Kept, error) {
	rows, err := db.Query(ctx, sql.InboxOfKey, k.String())
	if err != nil {
		return nil, fmt.Errorf("consumed messages of a subject: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Kept])
	if err != nil {
		return nil, fmt.Errorf("consumed messages of a subject: %w", err)
	}
	for i := range list {
		m := &list[i]
		if err := shown(ctx, db, c, place(m.Consumer, m.EventID), &m.Payload); err != nil {
			return nil, fmt.Errorf("consumed messages of a subject: %w", err)
		}
	}
	return list, nil
}
