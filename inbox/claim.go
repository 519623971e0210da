package inbox

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// ClaimOptions are what a claim may say of its event. nil and the zero value are the defaults.
type ClaimOptions struct {
	Source  string // whose id it is, see [Message.Source]
	Attempt string // see [Message.Attempt]
	Topic   string
	Type    string
	Payload []byte    // kept with the entry, encoded if ctx says so ([codec.With]); nil: none
	Time    time.Time // when it was sent, which lets an event with an id of its own make be refused by age
}

// Claim records in the caller's transaction that consumer takes the event, and says whether that is the first
// time. What it does to the caller's tables counts if and only if the transaction commits.
//
// If another transaction has claimed the event and not ended, Claim waits for it: the event is a
// duplicate if that one commits, and the first if it rolls back. A lock timeout (55P03) while it waits is an error, and
// tells neither; try the whole transaction again.
//
// Errors: [ErrNoID], [ErrTooOld], [ErrFuture], and Postgres's own. After one of Postgres the transaction must
// be rolled back.
func Claim(ctx context.Context, tx pgx.Tx, consumer, eventID string, opts *ClaimOptions) (first bool, err error) {
	if opts == nil {
		opts = &ClaimOptions{}
	}
	m := Message{ID: eventID, Source: opts.Source, Attempt: opts.Attempt, Topic: opts.Topic, Type: opts.Type, Payload: opts.Payload, Time: opts.Time}
	id, foreign, err := identity(&m)
	if err != nil {
		return false, fmt.Errorf("claim for %s: %w", consumer, err)
	}
	var outcomes []outcome
	one := claim{m: &m, id: id, foreign: foreign}
	if opts.Payload != nil {
		if one.stored, err = codec.EncodeFor(ctx, tx, place(consumer, id.String()), opts.Payload); err != nil {
			return false, fmt.Errorf("claim event %s for %s: %w", eventID, consumer, err)
		}
	}
	err = tx.QueryRow(ctx, sql.InboxClaims, claimArguments(consumer, []claim{one}, nil, opts.Payload != nil)...).Scan(&outcomes)
	if err != nil {
		return false, fmt.Errorf("claim event %s for %s: %w", eventID, consumer, err)
	}
	if err := outcomes[0].err(); err != nil {
		return false, fmt.Errorf("claim event %s for %s: %w", eventID, consumer, err)
	}
	return outcomes[0] == firstTime, nil
}

// claim is a message and what it is claimed as.
type claim struct {
	m       *Message
	id      uuid.UUID
	foreign string // "": a UUIDv7
	stored  []byte // the payload as it is kept, where it is
}

// outcome is what pgsagaz.inbox_claims says of an event.
type outcome string

const (
	firstTime outcome = "first"
	duplicate outcome = "duplicate"
	tooOld    outcome = "too old"
	future    outcome = "from the future"
)

func (o outcome) err() error {
	switch o {
	case tooOld:
		return ErrTooOld
	case future:
		return ErrFuture
	}
	return nil
}

// claimArguments are those of sql.InboxClaims. The claims are of distinct ids. took is the first value of
// processing_duration_ms; nil: none.
func claimArguments(consumer string, claims []claim, took *int, keepPayload bool) []any {
	ids := make([]pgtype.UUID, len(claims))
	foreign := make([]*string, len(claims))
	topics := make([]string, len(claims))
	types := make([]string, len(claims))
	var payloads [][]byte
	var sent []*time.Time
	for i, c := range claims {
		ids[i] = pgtype.UUID{Bytes: c.id, Valid: true}
		topics[i], types[i] = clean(c.m.Topic), clean(c.m.Type)
		if c.foreign != "" {
			foreign[i] = &c.foreign
		}
		if keepPayload {
			payloads = append(payloads, c.stored)
		}
		// An attempt is asked for today, whatever the age of the event.
		if c.foreign != "" && c.m.Attempt == "" && !c.m.Time.IsZero() {
			if sent == nil {
				sent = make([]*time.Time, len(claims))
			}
			sent[i] = &c.m.Time
		}
	}
	return []any{consumer, ids, foreign, topics, types, payloads, sent, took}
}
