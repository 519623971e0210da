package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Status is a saga as it stands. Get fills all of it; Wait gives the head alone, without what steps, children
// and signals did, and List leaves Input and Output out as well.
type Status struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Version   int             `json:"version"`
	State     State           `json:"state"`
	Key       string          `json:"key,omitempty"`
	Tags      []string        `json:"tags,omitempty"`
	Cause     *Cause          `json:"cause,omitempty"` // why it turned back
	CreatedAt time.Time       `json:"created_at"`
	Deadline  *time.Time      `json:"deadline,omitempty"`
	EndedAt   *time.Time      `json:"ended_at,omitempty"`
	PausedAt  *time.Time      `json:"paused_at,omitempty"` // since then nothing of it is begun
	Archived  bool            `json:"archived,omitempty"`  // it is in the archive, and nothing can be asked of it any more
	Input     json.RawMessage `json:"input,omitempty"`
	Output    json.RawMessage `json:"output,omitempty"` // of a completed saga that has an Output
	Steps     []StepStatus    `json:"steps,omitempty"`  // those that have begun, by the time they ended
	Attempts  []Attempt       `json:"attempts,omitempty"`
	Children  []ChildStatus   `json:"children,omitempty"`
	Signals   []SignalStatus  `json:"signals,omitempty"`
	Audit     []AuditEntry    `json:"audit,omitempty"` // what people asked of it
	// The saga whose step started it, and those that it was restarted from, and as. "": none.
	Parent      string `json:"parent,omitempty"`
	ParentStep  string `json:"parent_step,omitempty"`
	RestartOf   string `json:"restart_of,omitempty"`
	RestartedAs string `json:"restarted_as,omitempty"`
}

// ChildStatus is a saga that a step has started, or will.
type ChildStatus struct {
	Step  string `json:"step"`
	Item  int    `json:"item"`
	ID    string `json:"id,omitempty"` // "": not started yet
	Name  string `json:"name"`
	State State  `json:"state"` // waiting: not started yet
}

// SignalStatus is a signal that has reached a saga.
type SignalStatus struct {
	Name    string          `json:"name"`
	Key     string          `json:"key,omitempty"`
	Payload json.RawMessage `json:"payload"`
	SentAt  time.Time       `json:"sent_at"`
	Step    string          `json:"step,omitempty"` // that took it; "": none yet
}

// StepStatus is one direction of one step.
type StepStatus struct {
	Step       string    `json:"step"`
	Direction  Direction `json:"direction"`
	Generation int       `json:"generation"` // above 1: a result came after the undo
	// State: done, failed, skipped, nothing (no effect to undo); running, waiting (for its next attempt), awaiting
	// (a signal), sleeping, child (waiting for children), stuck (an operator must act).
	State     string          `json:"state"`
	InDoubt   bool            `json:"in_doubt,omitempty"`
	Attempt   int             `json:"attempt"` // the one that ended it; of a claim, how many have failed
	Worker    string          `json:"worker,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     string          `json:"error,omitempty"`
	Note      string          `json:"note,omitempty"`   // of an operator, or a Recover, who decided it
	Origin    string          `json:"origin,omitempty"` // the saga that it was taken over from; see [Engine.Restart]
	StartedAt *time.Time      `json:"started_at,omitempty"`
	EndedAt   *time.Time      `json:"ended_at,omitempty"`
	NextAt    *time.Time      `json:"next_at,omitempty"` // of a step that waits for its next attempt
}

// Attempt is one that failed and was followed by another.
type Attempt struct {
	Step       string    `json:"step"`
	Direction  Direction `json:"direction"`
	Generation int       `json:"generation"`
	Attempt    int       `json:"attempt"`
	Kind       string    `json:"kind"` // error, timeout, panic, crash
	Worker     string    `json:"worker,omitempty"`
	Error      string    `json:"error"`
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at"`
}

// Get reads a saga with all its steps. Error: [ErrNotFound].
func (e *Engine) Get(ctx context.Context, id string) (Status, error) {
	var s Status
	parsed, err := uuid.Parse(id)
	if err != nil {
		return s, fmt.Errorf("get saga %q: %w: not an id: %w", id, ErrNotFound, err)
	}
	id = parsed.String()
	// One snapshot, so that a step is seen either as claimed or as ended.
	err = pgx.BeginTxFunc(ctx, e.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := e.head(ctx, tx, id, &s); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql.StepDetail, id)
		if err != nil {
			return err
		}
		s.Steps, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (StepStatus, error) {
			var t StepStatus
			var result []byte
			err := row.Scan(&t.Step, &t.Direction, &t.Generation, &t.State, &t.InDoubt, &t.Attempt, &t.Worker, &result, &t.Error, &t.Note, &t.Origin,
				&t.StartedAt, &t.EndedAt, &t.NextAt)
			t.Result = result
			return t, err
		})
		if err != nil {
			return err
		}
		for i := range s.Steps {
			if err := e.shown(ctx, tx, atResult(s.Name), &s.Steps[i].Result); err != nil {
				return err
			}
		}
		rows, err = tx.Query(ctx, sql.AttemptList, id)
		if err != nil {
			return err
		}
		if s.Attempts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Attempt]); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, sql.ChildList, id); err != nil {
			return err
		}
		if s.Children, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ChildStatus]); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, sql.SignalList, id); err != nil {
			return err
		}
		s.Signals, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (SignalStatus, error) {
			var g SignalStatus
			var payload []byte
			err := row.Scan(&g.Name, &g.Key, &payload, &g.SentAt, &g.Step)
			g.Payload = payload
			return g, err
		})
		for i := range s.Signals {
			if err == nil {
				err = e.shown(ctx, tx, atSignal(s.Signals[i].Name), &s.Signals[i].Payload)
			}
		}
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		s, err = e.archived(ctx, e.pool, id)
	}
	if err == nil {
		err = e.annotate(ctx, &s)
	}
	if err != nil {
		return s, fmt.Errorf("get saga %s: %w", id, err)
	}
	return s, nil
}

// annotate adds what outlives the saga and its archive.
func (e *Engine) annotate(ctx context.Context, s *Status) (err error) {
	if err := e.pool.QueryRow(ctx, sql.RestartLinks, s.ID).Scan(&s.RestartOf, &s.RestartedAs); err != nil {
		return err
	}
	s.Audit, err = e.Audit(ctx, AuditFilter{SagaID: s.ID})
	return err
}

// archived reads a saga from the archive.
func (e *Engine) archived(ctx context.Context, db sql.Querier, id string) (s Status, err error) {
	var input, output []byte
	err = db.QueryRow(ctx, sql.ArchiveGet, id).Scan(&s.ID, &s.Name, &s.Version, &s.State, &s.Key, &s.Tags, &input,
		&s.Cause, &s.CreatedAt, &s.Deadline, &s.EndedAt, &output, &s.Parent, &s.ParentStep, &s.Steps, &s.Attempts, &s.Signals, &s.Children)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	s.Input, s.Output, s.Archived = input, output, true
	if err != nil {
		return s, err
	}
	for i := range s.Steps {
		if err := e.shown(ctx, db, atResult(s.Name), &s.Steps[i].Result); err != nil {
			return s, err
		}
	}
	for i := range s.Signals {
		if err := e.shown(ctx, db, atSignal(s.Signals[i].Name), &s.Signals[i].Payload); err != nil {
			return s, err
		}
	}
	return s, e.shownEnds(ctx, db, &s)
}

// shownEnds decodes input and output.
func (e *Engine) shownEnds(ctx context.Context, db sql.Querier, s *Status) error {
	if err := e.shown(ctx, db, atInput(s.Name), &s.Input); err != nil {
		return err
	}
	return e.shown(ctx, db, atResult(s.Name), &s.Output)
}

// head reads what a saga is, without its steps.
func (e *Engine) head(ctx context.Context, db sql.Querier, id string, s *Status) error {
	var input, output []byte
	err := db.QueryRow(ctx, sql.SagaGet, id).Scan(&s.ID, &s.Name, &s.Version, &s.State, &s.Key, &s.Tags, &input,
		&s.Cause, &s.CreatedAt, &s.Deadline, &s.EndedAt, &s.PausedAt, &output, &s.Parent, &s.ParentStep)
	s.Input, s.Output = input, output
	if err != nil {
		return err
	}
	return e.shownEnds(ctx, db, s)
}

// Filter chooses what List gives. Zero fields choose all.
type Filter struct {
	States []State
	Name   string
	Tag    string
	Key    string
	// OlderThan and YoungerThan choose by the time since the start.
	OlderThan, YoungerThan time.Duration
	After                  string // an id: what was started before it (newest come first); for the next page
	Limit                  int    // 0: all
	Paused                 bool   // those that are paused
	Archived               bool   // those in the archive, instead of those that live or have just ended
}

const listPage = 500

// List gives sagas, newest first, page by page of a keyset: it is as fast at the end as at the beginning,
// and what is started meanwhile does not shift it.
func (e *Engine) List(ctx context.Context, f Filter) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		after, given := f.After, 0
		if after != "" {
			if _, err := uuid.Parse(after); err != nil {
				yield(Status{}, fmt.Errorf("list sagas: After %q is not an id: %w", after, err))
				return
			}
		}
		for {
			limit := listPage
			if f.Limit > 0 {
				limit = min(limit, f.Limit-given)
			}
			page, err := e.page(ctx, f, after, limit)
			if err != nil {
				yield(Status{}, fmt.Errorf("list sagas: %w", err))
				return
			}
			for _, s := range page {
				if !yield(s, nil) {
					return
				}
			}
			given += len(page)
			if len(page) < limit || given == f.Limit {
				return
			}
			after = page[len(page)-1].ID
		}
	}
}

func (e *Engine) page(ctx context.Context, f Filter, after string, limit int) ([]Status, error) {
	var states []string
	open := len(f.States) > 0
	for _, s := range f.States {
		states = append(states, string(s))
		open = open && !s.Ended()
	}
	since := func(d time.Duration) *time.Time {
		if d <= 0 {
			return nil
		}
		t := time.Now().Add(-d)
		return &t
	}
	args := []any{states, optional(f.Name), optional(f.Tag), optional(f.Key), since(f.OlderThan), since(f.YoungerThan), optional(after), limit}
	if f.Archived && f.Paused {
		return nil, nil // what has ended is not
	}
	statement := sql.ArchiveList
	if !f.Archived {
		statement, args = sql.SagaList, append(args, open, f.Paused)
	}
	rows, err := e.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Status, error) {
		var s Status
		err := row.Scan(&s.ID, &s.Name, &s.Version, &s.State, &s.Key, &s.Tags, &s.Cause, &s.CreatedAt, &s.Deadline, &s.EndedAt, &s.PausedAt)
		s.Archived = f.Archived
		return s, err
	})
}
