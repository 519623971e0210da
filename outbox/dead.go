package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Dead is a message that was given up.
type Dead struct {
	ID          int64             `json:"id"` // what the functions here go by: Event.Sequence of the message
	EventID     uuid.UUID         `json:"event_id"`
	Topic       string            `json:"topic"`
	Key         string            `json:"key,omitempty"`
	RoutingKey  string            `json:"routing_key"`
	Type        string            `json:"type"`
	Headers     map[string]string `json:"headers"`
	TraceParent string            `json:"traceparent,omitempty"`
	SagaID      string            `json:"saga_id,omitempty"`
	Step        string            `json:"step,omitempty"`
	CreatedAt   time.Time         `json:"created_at"`
	DiedAt      time.Time         `json:"died_at"`
	Attempts    int               `json:"attempts"`
	Error       string            `json:"error"`             // of the last attempt
	Holds       bool              `json:"holds"`             // its key waits for it
	Size        int               `json:"size"`              // of the payload as it is stored, in bytes
	Payload     []byte            `json:"payload,omitempty"` // only from DeadLetter
}

// ErrNotDead: there is no dead letter of that id.
var ErrNotDead = errors.New("outbox: no such dead letter")

// DeadFilter chooses dead letters. Its zero value chooses all.
type DeadFilter struct {
	Topic, Key string // "": any
	Before     int64  // only those with a lower id: the next page; 0: all
	Limit      int    // 0: none
}

// DeadLetters are messages that were given up, the newest first.
func DeadLetters(ctx context.Context, db sql.Querier, f DeadFilter) ([]Dead, error) {
	// A plan for any filter would read all letters for those of few topics.
	rows, err := db.Query(ctx, sql.OutboxDeadList, pgx.QueryExecModeCacheDescribe, f.Topic, f.Key, f.Before, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Dead, err error) { return d, d.scan(row) })
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return list, nil
}

// DeadLetter is one, with its payload, decoded by the codec of ctx ([codec.With]); [ErrNotDead] if there is none.
func DeadLetter(ctx context.Context, db sql.Querier, id int64) (Dead, error) {
	var d Dead
	err := d.scan(db.QueryRow(ctx, sql.OutboxDeadGet, id), &d.Payload)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotDead
	}
	if err == nil {
		err = shown(ctx, db, codec.From(ctx), place(d.EventID, d.Topic), &d.Payload)
	}
	if err != nil {
		return d, fmt.Errorf("dead letter %d: %w", id, err)
	}
	return d, nil
}

func (d *Dead) scan(row pgx.Row, more ...any) error {
	var headers []byte
	err := row.Scan(append([]any{&d.ID, &d.EventID, &d.Topic, &d.Key, &d.RoutingKey, &d.Type, &headers, &d.TraceParent, &d.SagaID, &d.Step,
		&d.CreatedAt, &d.DiedAt, &d.Attempts, &d.Error, &d.Holds, &d.Size}, more...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal(headers, &d.Headers)
}

// Redriven is what became of a dead letter.
type Redriven struct {
	ID int64 `json:"id"` // as before if its key waited for it; otherwise a new one
	// Ordered says that no later message of its key has been committed, or has left. If it is false the
	// message arrives after later ones, or that can't be ruled out.
	Ordered bool `json:"ordered"`
}

// By says who sees to something, and why, for the audit.
type By = sql.By

// Redrive gives a dead letter another chance, in tx, with all its attempts. It goes by the same event id. The audit of it
// commits with it.
// [ErrNotDead] if there is none.
func Redrive(ctx context.Context, tx pgx.Tx, id int64, by By) (Redriven, error) {
	var r Redriven
	var bucket int16
	if err := tx.QueryRow(ctx, sql.OutboxRedrive, id, by.Actor, by.Reason).Scan(&r.ID, &bucket, &r.Ordered); err != nil {
		return r, fmt.Errorf("redrive dead letter %d: %w", id, notDead(err))
	}
	sql.WakeLater(tx.Conn(), sql.OutboxQueue+strconv.Itoa(int(bucket)))
	return r, nil
}

// Drop forgets a dead letter, in tx. A key that waits for it goes on without it. The audit of it, which names the event and
// its topic, commits with it. [ErrNotDead] if there is none.
func Drop(ctx context.Context, tx pgx.Tx, id int64, by By) error {
	if _, err := tx.Exec(ctx, sql.OutboxDrop, id, by.Actor, by.Reason); err != nil {
		return fmt.Errorf("drop dead letter %d: %w", id, notDead(err))
	}
	return nil
}

func notDead(err error) error {
	if sql.State(err) == sql.StateNoDeadLetter {
		return ErrNotDead
	}
	return err
}

// ReplayFilter chooses what is published again.
type ReplayFilter struct {
	From, To time.Time // when it was written; From counts, To does not. Zero To: now
	Topic    string    // "": any
}

// Replay publishes again what has been published before and is still retained: in the archive, see
// Config.Archive, and in the outbox itself for a while. The events have their ids and the mark
// Event.Replayed; consumers that remember what they have seen take no notice of them, unless they
// heed the mark. Returns how many there are. It works in pages of 1000, each a transaction. Who does it is in the
// audit before the first, and how many there were after the last; nothing of that: it was broken off.
func Replay(ctx context.Context, db sql.Querier, f ReplayFilter, by By) (n int, err error) {
	if f.To.IsZero() {
		f.To = time.Now().Add(time.Hour) // past any difference of clocks
	}
	if !f.From.Before(f.To) {
		return 0, fmt.Errorf("outbox: replay from %v to %v: there is nothing between", f.From, f.To)
	}
	var until, after int64
	if err := db.QueryRow(ctx, sql.OutboxLastID).Scan(&until); err != nil {
		return 0, fmt.Errorf("replay: %w", err)
	}
	var audit int64
	what, err := json.Marshal(map[string]any{"from": f.From, "to": f.To, "topic": f.Topic})
	if err != nil {
		return 0, fmt.Errorf("replay: %w", err)
	}
	if err := db.QueryRow(ctx, sql.AuditBegin, "outbox", "replay", by.Actor, by.Reason, string(what)).Scan(&audit); err != nil {
		return 0, fmt.Errorf("replay: %w", err)
	}
	const page = 1000
	for {
		var sent int
		if err := db.QueryRow(ctx, sql.OutboxReplay, f.From, f.To, f.Topic, after, page, until).Scan(&sent, &after); err != nil {
			return n, fmt.Errorf("replay, after %d messages: %w", n, err)
		}
		if n += sent; sent < page {
			if _, err := db.Exec(ctx, sql.AuditAnswer, audit, "obeyed", fmt.Sprintf("%d messages", n)); err != nil {
				return n, fmt.Errorf("replay, after %d messages: %w", n, err)
			}
			return n, nil
		}
	}
}
