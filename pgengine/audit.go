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

// AuditEntry is something that somebody asked of a saga, and what became of it.
type AuditEntry struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	SagaID string    `json:"saga_id"` // "": a repair of what all sagas share
	Saga   string    `json:"saga"`    // its name
	// Verb: cancel, abandon, pause, resume, retry, skip, resolve, signal, restart; repair, by [sql.Repair].
	Verb    string          `json:"verb"`
	Step    string          `json:"step,omitempty"`
	Actor   string          `json:"actor"`
	Login   string          `json:"login"` // as whom he came to the database
	Reason  string          `json:"reason,omitempty"`
	Details json.RawMessage `json:"details,omitempty"`
	// Answer: waits (for a worker), obeyed, already (it was as was asked for), too late, refused.
	Answer     string     `json:"answer"`
	Why        string     `json:"why,omitempty"`
	AnsweredAt *time.Time `json:"answered_at,omitempty"`
}

// AuditFilter chooses what Audit gives. Zero fields choose all.
type AuditFilter struct {
	SagaID       string
	Actor        string
	Since, Until time.Time
}

// Audit tells what people asked of sagas, oldest first, also of those that are long gone.
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
	rows, err := e.pool.Query(ctx, sql.AuditList, optional(f.SagaID), at(f.Since), at(f.Until), optional(f.Actor))
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditEntry, error) {
		var a AuditEntry
		var details []byte
		err := row.Scan(&a.ID, &a.At, &a.SagaID, &a.Saga, &a.Verb, &a.Step, &a.Actor, &a.Login, &a.Reason, &details, &a.Answer, &a.Why, &a.AnsweredAt)
		a.Details = details
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return entries, nil
}
