package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// AuditEntry is something that somebody asked of a saga, or did to something else, and what became of it.
type AuditEntry struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	About  string    `json:"about"` // saga, schedule, outbox, inbox, codec, system
	SagaID string    `json:"saga_id,omitempty"`
	Saga   string    `json:"saga,omitempty"` // its name
	// Thing is a schedule's name, a dead letter's id, or the id of a subject's data key, which is not his name.
	Thing string `json:"thing,omitempty"`
	// Verb, of a saga: cancel, abandon, pause, resume, retry, skip, resolve, signal, restart; of a schedule: add, change,
	// pause, resume, rm; of the outbox and the inbox: redrive, drop, replay; of the codec: erase, rotate; of any saga, and of
	// the system, which is what all share: repair, by [sql.Repair].
	Verb    string          `json:"verb"`
	Step    string          `json:"step,omitempty"`
	Actor   string          `json:"actor"`
	Login   string          `json:"login"` // as whom he came to the database
	Reason  string          `json:"reason,omitempty"`
	Details json.RawMessage `json:"details,omitempty"`
	// Answer: waits (for a worker), obeyed, already (it was as was asked for), too late, refused. A replay and a rotation wait
	// until all is done: then Why says how much that was.
	Answer     string     `json:"answer"`
	Why        string     `json:"why,omitempty"`
	AnsweredAt *time.Time `json:"answered_at,omitempty"`
}

// AuditFilter chooses what Audit gives. Zero fields choose all.
type AuditFilter struct {
	SagaID       string
	About, Thing string // as in [AuditEntry]
	Verb, Actor  string
	Since, Until time.Time
	Before       int64 // only those with a lower id: the page before this one; 0: all
	Limit        int   // the newest so many; 0: all
}

// Audit tells what people asked of sagas, and did to schedules, dead letters, published messages and keys, oldest first, also
// of what is long gone.
func (e *Engine) Audit(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	if f.SagaID != "" {
		if _, err := uuid.Parse(f.SagaID); err != nil {
			return nil, fmt.Errorf("audit: saga %q: not an id: %w", f.SagaID, err)
		}
	}
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	rows, err := e.pool.Query(ctx, sql.AuditList, optional(f.SagaID), at(f.Since), at(f.Until), optional(f.Actor),
		optional(f.About), optional(f.Thing), optional(f.Verb), f.Before, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditEntry, error) {
		var a AuditEntry
		var details []byte
		err := row.Scan(&a.ID, &a.At, &a.About, &a.SagaID, &a.Saga, &a.Thing, &a.Verb, &a.Step, &a.Actor, &a.Login, &a.Reason, &details, &a.Answer, &a.Why, &a.AnsweredAt)
		a.Details = details
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return entries, nil
}
