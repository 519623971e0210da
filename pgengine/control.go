package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Cancel asks a saga to turn back, in the caller's transaction: it locks nothing of the saga's, and the
// engine obeys once the transaction has committed. Steps that have begun end first. A saga that has begun to
// turn back by then, is past its pivot, or has ended, goes on as it was; one that is on its way through
// its pivot turns back unless that comes through.
//
// Errors: [ErrNotFound]; [ErrEnded] if it has ended already.
func (e *Engine) Cancel(ctx context.Context, tx pgx.Tx, id, reason string) error {
	return e.command(ctx, tx, id, "cancel", reason, nil)
}

// Retry sets a stuck saga going again, in the caller's transaction: what has given up is tried anew, with all
// its attempts. An undo that is an operator's own ([Activity.ManualUndo]) stays: see [Engine.Resolve].
//
// Errors: [ErrNotFound]; [ErrEnded].
func (e *Engine) Retry(ctx context.Context, tx pgx.Tx, id, reason string) error {
	return e.command(ctx, tx, id, "retry", reason, nil)
}

func (e *Engine) command(ctx context.Context, tx pgx.Tx, id, kind, reason string, body []byte) error {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return fmt.Errorf("%s saga %q: %w: not an id: %w", kind, id, ErrNotFound, err)
	}
	id = parsed.String()
	var state State
	if err := tx.QueryRow(ctx, sql.Command, id, kind, reason, optional(string(body))).Scan(&state); err != nil {
		return fmt.Errorf("%s saga %s: %w", kind, id, named(err))
	}
	return e.asked(tx, id, kind, state)
}

// asked is the end of asking something of a saga.
func (e *Engine) asked(tx pgx.Tx, id, kind string, state State) error {
	if state.Ended() {
		return fmt.Errorf("%s saga %s: %w: it is %s", kind, id, ErrEnded, state)
	}
	if e.waker != nil {
		sql.WakeLater(tx.Conn(), ControlQueue)
	}
	return nil
}

// Target names a saga: by its id, or by the key that it was started with.
type Target struct{ id, name, key string }

// ID names a saga by its id.
func ID(id string) Target { return Target{id: id} }

// Key names the saga over I that was started with key.
func Key[I Input](key string) Target {
	var zero I
	return Target{name: zero.SagaName(), key: key}
}

func (t Target) String() string {
	if t.id != "" {
		return t.id
	}
	return fmt.Sprintf("%s with key %q", t.name, t.key)
}

func (t Target) find(ctx context.Context, tx pgx.Tx) (string, error) {
	if t.id != "" {
		parsed, err := uuid.Parse(t.id)
		if err != nil {
			return "", fmt.Errorf("%w: not an id: %w", ErrNotFound, err)
		}
		return parsed.String(), nil
	}
	var id string
	err := tx.QueryRow(ctx, sql.SagaByKey, t.name, t.key).Scan(&id)
	if err == nil && id == "" {
		err = ErrNotFound
	}
	return id, err
}

// KeyedSignal is a [Signal] that may be sent twice: of those of one name and key, a saga gets the first.
type KeyedSignal interface {
	Signal
	SignalKey() string
}

// SignalOptions are what a signal may say beyond its payload.
type SignalOptions struct {
	Key string // as that of a [KeyedSignal]; "": none
}

// Signal tells a saga something, in the caller's transaction: it locks nothing of the saga's. The first step
// that awaits this name gets it, also if it begins later.
//
// Errors: [ErrNotFound]; [ErrEnded]; [ErrNoSignal] if no step of the saga awaits it; [ErrTooLarge]; a payload
// that does not marshal. After all but ErrEnded the transaction must be rolled back.
func (e *Engine) Signal(ctx context.Context, tx pgx.Tx, to Target, s Signal) error {
	name, err := signalName(s)
	if err != nil {
		return fmt.Errorf("signal saga %s: %w", to, err)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("signal %s to saga %s: the payload does not marshal: %w", name, to, err)
	}
	opts := &SignalOptions{}
	if keyed, ok := s.(KeyedSignal); ok {
		opts.Key = keyed.SignalKey()
	}
	return e.SignalJSON(ctx, tx, to, name, raw, opts)
}

// SignalJSON is [Engine.Signal] by name, for tools and for services that get payloads as JSON.
func (e *Engine) SignalJSON(ctx context.Context, tx pgx.Tx, to Target, name string, payload json.RawMessage, opts *SignalOptions) error {
	if opts == nil {
		opts = &SignalOptions{}
	}
	if !json.Valid(payload) {
		return fmt.Errorf("signal %s to saga %s: the payload is not JSON", name, to)
	}
	if len(opts.Key) > maxKey {
		return fmt.Errorf("signal %s to saga %s: its key has %d bytes, at most %d are allowed", name, to, len(opts.Key), maxKey)
	}
	id, err := to.find(ctx, tx)
	if err != nil {
		return fmt.Errorf("signal %s to saga %s: %w", name, to, err)
	}
	var state State
	if err := tx.QueryRow(ctx, sql.Signal, id, name, string(payload), optional(opts.Key), e.maxPayload).Scan(&state); err != nil {
		return fmt.Errorf("signal %s to saga %s: %w", name, to, named(err))
	}
	return e.asked(tx, id, "signal "+name+" to", state)
}

// Resolution is what an operator has found out, or done, about a step that waits for him.
type Resolution struct {
	Outcome Outcome
	Result  json.RawMessage // of a forward step that is done
	Reason  string          // kept in the saga's history
}

// Outcome is what has become of a step.
type Outcome string

const (
	// OutcomeDone: it is done, or undone, by hand or all along.
	OutcomeDone Outcome = "done"
	// OutcomeFailed: the pivot has not happened and will not; the saga turns back.
	OutcomeFailed Outcome = "failed"
	// OutcomeSkipped: go on past a step that may lack a result; or leave a step as it is, not undone.
	OutcomeSkipped Outcome = "skipped"
)

// resolved is a Resolution as it travels.
type resolved struct {
	Step    string          `json:"step"`
	Outcome Outcome         `json:"outcome"`
	Result  json.RawMessage `json:"result,omitempty"`
}

// ErrNotParked: the step does not wait for an operator.
var ErrNotParked = errors.New("pgsagaz: the step does not wait for an operator")

// Resolve decides a step that waits for an operator, in the caller's transaction: an undo that has given up or
// is his own, a pivot of which nobody knows whether it happened, a step past the pivot that has failed.
//
// Errors: [ErrNotFound]; [ErrEnded]; [ErrNotParked]; an outcome or a result that does not fit the step, as
// far as this process has its code. (Without it the worker checks, and logs what it refuses.)
func (e *Engine) Resolve(ctx context.Context, tx pgx.Tx, id, step string, r Resolution) error {
	fail := func(err error) error { return fmt.Errorf("resolve step %s of saga %s: %w", step, id, err) }
	parsed, err := uuid.Parse(id)
	if err != nil {
		return fail(fmt.Errorf("%w: not an id: %w", ErrNotFound, err))
	}
	var name string
	var version int
	var direction Direction
	err = tx.QueryRow(ctx, sql.LaneParked, parsed.String(), step).Scan(&name, &version, &direction)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotParked
	}
	if err != nil {
		return fail(err)
	}
	body := resolved{Step: step, Outcome: r.Outcome, Result: r.Result}
	if g := e.graphs[name][version]; g != nil {
		if i, ok := g.index[step]; ok {
			if _, err := g.resolution(task{node: i, direction: direction}, body); err != nil {
				return fail(err)
			}
		}
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return fail(fmt.Errorf("the result is not JSON: %w", err))
	}
	return e.command(ctx, tx, id, "resolve", r.Reason, raw)
}

// resolution is the outcome to record for what an operator says of t.
func (g *graph) resolution(t task, r resolved) (*record, error) {
	n := g.nodes[t.node]
	rec := &record{outcome: string(r.Outcome)}
	switch {
	case t.direction == Undo:
		if r.Outcome != OutcomeDone && r.Outcome != OutcomeSkipped {
			return nil, fmt.Errorf("an undo is %s or %s, not %q", OutcomeDone, OutcomeSkipped, r.Outcome)
		}
		return rec, nil
	case r.Outcome == OutcomeDone:
		if r.Result == nil {
			return nil, errors.New("the result of a step that is done is missing")
		}
		if err := guarded(func() error { return json.Unmarshal(r.Result, reflect.New(n.result).Interface()) }); err != nil {
			return nil, fmt.Errorf("the result does not fit %s: %w", n.result, err)
		}
		rec.result = r.Result
	case r.Outcome == OutcomeFailed && t.node == g.pivot:
		rec.err = "an operator says that it has not happened"
	case r.Outcome == OutcomeSkipped && t.node != g.pivot && n.mayLack():
	case r.Outcome == OutcomeSkipped:
		return nil, errors.New("it can't be skipped: later steps count on its result; give one")
	case r.Outcome == OutcomeFailed:
		return nil, errors.New("it can't be failed: past the pivot the saga goes forward only")
	default:
		return nil, fmt.Errorf("unknown outcome %q", r.Outcome)
	}
	return rec, nil
}
