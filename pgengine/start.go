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
	raw, subject, err := marshalInput(in, opts)
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: %w", name, err)
	}
	return e.start(ctx, tx, name, raw, subject, opts)
}

// marshalInput is the input as JSON, and whose data it is.
func marshalInput(in Input, opts *StartOptions) (raw json.RawMessage, subject string, err error) {
	if raw, err = json.Marshal(in); err != nil {
		return nil, "", fmt.Errorf("the input does not marshal: %w", err)
	}
	if opts.Subject != "" {
		return raw, opts.Subject, nil
	}
	subject, err = subjectOf(in)
	return raw, subject, err
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
	id, err := uuid.NewV7()
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: %w", name, err)
	}
	stored, err := e.sealInput(ctx, tx, name, raw, subject, opts.Key != "")
	if err != nil {
		return Started{}, fmt.Errorf("start saga %s: %w", name, err)
	}
	as := e.terms(name, opts)
	err = tx.QueryRow(ctx, sql.Start, name, string(stored), optional(opts.Key), as.tags, as.version, as.timeout,
		id.String(), optional(tracing.Of(ctx)), max(e.maxPayload, len(stored)), as.registered).Scan(&id, &s.Version, &s.Existed)
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

// terms are what a start says of its saga beyond the input.
type terms struct {
	version    *int // nil: the database chooses
	timeout    *time.Duration
	registered bool // the database must know the definition
	tags       []string
}

func (e *Engine) terms(name string, opts *StartOptions) terms {
	as := terms{registered: true, tags: opts.Tags}
	if opts.Version > 0 {
		as.version = &opts.Version
	} else if g := e.latest[name]; g != nil {
		as.version = &g.version
	}
	if as.version != nil {
		if g := e.graphs[name][*as.version]; g != nil {
			as.registered = false // we know it ourselves; its worker may not have registered it yet
			if g.timeout > 0 {
				as.timeout = &g.timeout
			}
		}
	}
	if opts.Timeout > 0 {
		as.timeout = &opts.Timeout
	}
	if as.tags == nil {
		as.tags = []string{}
	}
	return as
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
