package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
)

const defaultQueue = "default"

// ControlQueue is the queue of commands (Cancel, Retry, deadlines). It is one of its own, so that a cancel
// does not stand in line behind what it is to stop.
const ControlQueue = "pgsagaz_control"

// StartOptions are what a start may say beyond its input. nil and the zero value are the defaults.
type StartOptions struct {
	// Key makes the start idempotent: the same key and input give the same saga again, the same key with
	// another input [ErrOtherInput]. Keys are a saga name's own. "": none.
	Key     string
	Tags    []string      // to find the saga by
	Timeout time.Duration // of the whole saga; 0: the definition's
	Version int           // 0: the latest this engine has the code of, else the highest a live worker has
	// TraceParent is the W3C trace context of the starter. "": that of the span which ctx is in, if it is in one.
	TraceParent string
	// Subject says whose data the saga is about, in place of the input's own [Subject].
	Subject string
}

// Started is a saga that will run once the transaction commits.
type Started struct {
	ID      string // a UUIDv7
	Version int
	Existed bool // the key was known: this is the saga of before
}

// Start starts a saga in the caller's transaction: with it, or not at all. It works from processes
// without the steps' code. A pool with [sql.WakeOnCommit], and [sql.InTx], wake the workers as the
// transaction commits; otherwise they find the saga with their next poll, 100 ms later at most.
//
// Errors, after which the transaction must be rolled back: [ErrUnknownSaga], [ErrOtherInput],
// [ErrTooLarge], an input that does not marshal, and Postgres's own; with a codec, [codec.ErrErased] if the saga's
// subject was erased.
func (e *Engine) Start(ctx context.Context, tx pgx.Tx, in Input, opts *StartOptions) (Started, error) {
	if opts == nil {
		opts = &StartOptions{}
	}
	name, err := inputName(in)
	if err != nil {
		return Started{}, fmt.Errorf("start: %w", err)
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: the input does not marshal: %w", name, err)
	}
	subject := opts.Subject
	if subject == "" {
		if subject, err = subjectOf(in); err != nil {
			return Started{}, fmt.Errorf("start saga %s: %w", name, err)
		}
	}
	return e.start(ctx, tx, name, raw, subject, opts)
}

// StartJSON is [Engine.Start] by name, for tools and for services that get their inputs as JSON. If this
// engine has the saga's code, an input that does not fit its type is refused. Without the code only the options can say whose
// data it is: see [StartOptions.Subject].
func (e *Engine) StartJSON(ctx context.Context, tx pgx.Tx, name string, input json.RawMessage, opts *StartOptions) (Started, error) {
	if opts == nil {
		opts = &StartOptions{}
	}
	if !json.Valid(input) {
		return Started{}, fmt.Errorf("start saga %s: the input is not JSON", name)
	}
	subject := opts.Subject
	if g := e.latest[name]; g != nil {
		if err := g.decodable(input); err != nil {
			return Started{}, fmt.Errorf("start saga %s: the input does not fit: %w", name, err)
		}
		if subject == "" {
			var err error
			if subject, err = g.subject(input); err != nil {
				return Started{}, fmt.Errorf("start saga %s: %w", name, err)
			}
		}
	}
	return e.start(ctx, tx, name, input, subject, opts)
}

func (e *Engine) start(ctx context.Context, tx pgx.Tx, name string, raw json.RawMessage, subject string, opts *StartOptions) (s Started, err error) {
	ctx, span := e.startSpan(ctx, name, opts.TraceParent)
	defer func() { endStart(span, s, err) }()
	if len(raw) > e.maxPayload {
		return Started{}, fmt.Errorf("start saga %s: %w: input of %d bytes, the limit is %d", name, ErrTooLarge, len(raw), e.maxPayload)
	}
	var version *int
	var timeout *time.Duration
	registered := true // the database must know the definition
	if opts.Version > 0 {
		version = &opts.Version
	} else if g := e.latest[name]; g != nil {
		version = &g.version
	}
	if version != nil {
		if g := e.graphs[name][*version]; g != nil {
			registered = false // we know it ourselves; its worker may not have registered it yet
			if g.timeout > 0 {
				timeout = &g.timeout
			}
		}
	}
	if opts.Timeout > 0 {
		timeout = &opts.Timeout
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: %w", name, err)
	}
	tags := opts.Tags
	if tags == nil {
		tags = []string{}
	}
	stored, err := e.sealInput(ctx, tx, name, raw, subject, opts.Key != "")
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: %w", name, err)
	}
	err = tx.QueryRow(ctx, sql.Start, name, string(stored), optional(opts.Key), tags, version, timeout,
		id.String(), optional(tracing.Of(ctx)), max(e.maxPayload, len(stored)), registered).Scan(&id, &s.Version, &s.Existed)
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: %w", name, named(err))
	}
	s.ID = id.String()
	if !s.Existed {
		e.metrics.started.WithLabelValues(name).Inc()
	}
	if e.waker != nil && !s.Existed {
		sql.WakeLater(tx.Conn(), defaultQueue)
	}
	return s, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// named gives the errors that our SQL functions raise their Go names, and keeps Postgres's words.
func named(err error) error {
	sentinel := map[string]error{
		sql.StateNoSaga: ErrNotFound, sql.StateUnknownSaga: ErrUnknownSaga,
		sql.StateOtherInput: ErrOtherInput, sql.StateErased: codec.ErrErased, sql.StateInputTooLong: ErrTooLarge, sql.StateNoSignal: ErrNoSignal,
	}[sql.State(err)]
	if sentinel == nil {
		return err
	}
	return &namedError{sentinel: sentinel, err: err}
}

type namedError struct{ sentinel, err error }

func (e *namedError) Error() string {
	if pg, ok := e.err.(*pgconn.PgError); ok { //nolint:errorlint // named is given Postgres's own error
		words := pg.Message
		for _, more := range []string{pg.Detail, pg.Hint} {
			if more != "" {
				words += ". " + more
			}
		}
		return words
	}
	return e.err.Error()
}

func (e *namedError) Unwrap() []error { return []error{e.sentinel, e.err} }
