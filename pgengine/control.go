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

// By says who asks for something, and why: it stands in the audit of the saga, whatever becomes of it. No Actor: the
// user of the database's session.
type By = sql.By

// Cancel asks a saga to turn back, in the caller's transaction: it locks nothing of the saga's, and the
// engine obeys once the transaction has committed. Steps that have begun end first. A saga that has begun to
// turn back by then, is past its pivot, or has ended, goes on as it was; one that is on its way through
// its pivot turns back unless that comes through. One that is paused turns back, and undoes once it is resumed.
//
// Errors: [ErrNotFound]; [ErrEnded] if it has ended already.
func (e *Engine) Cancel(ctx context.Context, tx pgx.Tx, id string, by By) error {
	return e.ask(ctx, tx, request{verb: "cancel", id: id, by: by})
}

// Abandon ends a saga without undoing what it has done, in the caller's transaction; one that turns back stops doing so.
// Steps that have begun end first, and children go on by themselves. What would have been undone is recorded as skipped,
// by whom and why; the saga is then compensated, and its cause says NoUndo. Past its pivot it goes
// forward only, and is refused.
//
// Errors: as [Engine.Cancel].
func (e *Engine) Abandon(ctx context.Context, tx pgx.Tx, id string, by By) error {
	return e.ask(ctx, tx, request{verb: "abandon", id: id, by: by})
}

// Pause holds a saga up, in the caller's transaction: what has begun ends, and nothing else begins before
// [Engine.Resume], neither steps nor undos nor attempts. Time goes on: a deadline that passes turns it back, and timers
// that fall due, signals and children's ends are seen to when it is resumed. Its children are not paused.
//
// Errors: as [Engine.Cancel].
func (e *Engine) Pause(ctx context.Context, tx pgx.Tx, id string, by By) error {
	return e.ask(ctx, tx, request{verb: "pause", id: id, by: by})
}

// Resume lets a paused saga go on, in the caller's transaction.
//
// Errors: as [Engine.Cancel].
func (e *Engine) Resume(ctx context.Context, tx pgx.Tx, id string, by By) error {
	return e.ask(ctx, tx, request{verb: "resume", id: id, by: by})
}

// Retry sets what does not go on going again, in the caller's transaction: what has given up is tried anew, with all
// its attempts; what waits for its next attempt is tried now. An undo that is an operator's own
// ([Activity.ManualUndo]) stays: see [Engine.Resolve].
//
// Errors: as [Engine.Cancel].
func (e *Engine) Retry(ctx context.Context, tx pgx.Tx, id string, by By) error {
	return e.ask(ctx, tx, request{verb: "retry", id: id, by: by})
}

// RetryStep is [Engine.Retry] of one step.
//
// Errors: as [Engine.Cancel]; [ErrNotParked] if the step waits neither for an operator nor for its next attempt.
func (e *Engine) RetryStep(ctx context.Context, tx pgx.Tx, id, step string, by By) error {
	return e.askStep(ctx, tx, request{verb: "retry", id: id, step: step, by: by}, func(g *graph, w waitingLane) error {
		if g != nil && g.manual(task{node: g.index[step], direction: w.direction}) {
			return errors.New("its undo is an operator's own: resolve it")
		}
		return w.untried()
	})
}

// Skip goes on past a step that has given up, or waits, in the caller's transaction: forward, if no later step counts on its
// result; an undo is left out, and the step stays as it is.
//
// Errors: as [Engine.Cancel]; [ErrNotParked] if the step does not wait; one that says why it can't be skipped, as far
// as that is known before the engine obeys.
func (e *Engine) Skip(ctx context.Context, tx pgx.Tx, id, step string, by By) error {
	return e.askStep(ctx, tx, request{verb: "skip", id: id, step: step, by: by}, func(g *graph, w waitingLane) error {
		if g == nil {
			return nil
		}
		_, err := g.skip(w.at(g, step))
		return err
	})
}

// request is what somebody asks of a saga.
type request struct {
	verb, id, step string
	by             By
	details        map[string]any // for the audit
	body           any            // for the worker; nil: none
}

// ask writes down what is asked for, and by whom.
func (e *Engine) ask(ctx context.Context, tx pgx.Tx, r request) error {
	parsed, err := uuid.Parse(r.id)
	if err != nil {
		return fmt.Errorf("%s saga %q: %w: not an id: %w", r.verb, r.id, ErrNotFound, err)
	}
	id := parsed.String()
	var body, details *string
	for _, part := range []struct {
		of any
		to **string
	}{{r.body, &body}, {r.details, &details}} {
		raw, err := json.Marshal(part.of)
		if err != nil {
			return fmt.Errorf("%s saga %s: the result is not JSON: %w", r.verb, id, err)
		}
		if text := string(raw); text != "null" {
			*part.to = &text
		}
	}
	var state State
	err = tx.QueryRow(ctx, sql.Ask, id, r.verb, optional(r.by.Actor), r.by.Reason, optional(r.step), details, body).Scan(&state)
	if err != nil {
		return fmt.Errorf("%s saga %s: %w", r.verb, id, named(err))
	}
	return e.asked(tx, id, r.verb, state)
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

// waitingLane is a step that is claimed, as whoever asks something of it sees it.
type waitingLane struct {
	laneAt
	waits string
}

// at places the lane in the graph.
func (w waitingLane) at(g *graph, step string) laneAt {
	l := w.laneAt
	l.node, l.waits = g.index[step], w.waits
	return l
}

// untried: there is an attempt to come.
func (w waitingLane) untried() error {
	switch {
	case w.held:
		return fmt.Errorf("%w: it is running", ErrNotParked)
	case w.waits != "":
		return fmt.Errorf("%w: it waits for a %s", ErrNotParked, w.waits)
	}
	return nil
}

// askStep asks something of a step that has to be claimed, and to pass check. What it says travels with the step's
// direction and generation: it is meant for what the asker saw.
func (e *Engine) askStep(ctx context.Context, tx pgx.Tx, r request, check func(*graph, waitingLane) error) error {
	fail := func(err error) error { return fmt.Errorf("%s step %s of saga %s: %w", r.verb, r.step, r.id, err) }
	parsed, err := uuid.Parse(r.id)
	if err != nil {
		return fail(fmt.Errorf("%w: not an id: %w", ErrNotFound, err))
	}
	rows, err := tx.Query(ctx, sql.LaneWaiting, parsed.String(), r.step)
	if err != nil {
		return fail(err)
	}
	var w *waitingLane
	var name string
	var version int
	var state State
	lane, direction, generation, held, parked, doubt := new(int64), new(Direction), new(int), false, new(bool), new(bool)
	waits, seen := "", false
	_, err = pgx.ForEachRow(rows, []any{&name, &version, &state, &lane, &direction, &generation, &held, &parked, &doubt, &waits}, func() error {
		if seen = true; lane != nil {
			w = &waitingLane{laneAt{id: *lane, direction: *direction, generation: *generation, held: held, parked: *parked, inDoubt: *doubt}, waits}
		}
		return nil
	})
	switch {
	case err != nil:
		return fail(err)
	case !seen || state.Ended():
		return e.ask(ctx, tx, r) // it is in the archive, or nowhere; or has ended: it says so
	case w == nil:
		return fail(fmt.Errorf("%w: it has not begun, has ended, or there is no such step", ErrNotParked))
	}
	g := e.graphs[name][version]
	if g == nil {
		if g, err = e.skeleton(ctx, tx, name, version); err != nil {
			return fail(err)
		}
	}
	if g != nil {
		if _, ok := g.index[r.step]; !ok {
			g = nil
		}
	}
	if err := check(g, *w); err != nil {
		return fail(err)
	}
	said, _ := r.body.(resolved)
	if said.Result != nil {
		k, err := e.keyOfSaga(ctx, tx, parsed.String())
		if err == nil {
			said.Result, err = e.codec.EncodeJSON(ctx, tx, k, atResult(name), said.Result)
		}
		if err != nil {
			return fail(err)
		}
	}
	said.Step, said.Direction, said.Generation = r.step, w.direction, w.generation
	r.body = said
	return e.ask(ctx, tx, r)
}

// skeleton is a graph as it is registered, without code; nil: it is not.
func (e *Engine) skeleton(ctx context.Context, db sql.Querier, name string, version int) (*graph, error) {
	var p Graph
	var seconds float64
	err := db.QueryRow(ctx, sql.DefinitionGet, name, version).Scan(&p, &seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p.skeleton()
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
	By  By     // an operator who sends it by hand: it then stands in the audit. Zero: it does not
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
	if len(payload) > e.maxPayload {
		return fmt.Errorf("signal %s to saga %s: %w: %d bytes, the limit is %d", name, to, ErrTooLarge, len(payload), e.maxPayload)
	}
	k, err := e.keyOfSaga(ctx, tx, id)
	if err == nil {
		payload, err = e.codec.EncodeJSON(ctx, tx, k, atSignal(name), payload)
	}
	if err != nil {
		return fmt.Errorf("signal %s to saga %s: %w", name, to, err)
	}
	var state State
	if err := tx.QueryRow(ctx, sql.Signal, id, name, string(payload), optional(opts.Key), max(e.maxPayload, len(payload)), optional(opts.By.Actor), optional(opts.By.Reason)).Scan(&state); err != nil {
		return fmt.Errorf("signal %s to saga %s: %w", name, to, named(err))
	}
	return e.asked(tx, id, "signal "+name+" to", state)
}

// Resolution is what an operator has found out, or done, about a step that waits for him.
type Resolution struct {
	Outcome Outcome
	Result  json.RawMessage // of a forward step that is done
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

// resolved is a Resolution as it travels, and what it is about; of a retry and a skip that is all there is.
type resolved struct {
	Step       string          `json:"step"`
	Direction  Direction       `json:"direction,omitempty"`
	Generation int             `json:"generation,omitempty"`
	Outcome    Outcome         `json:"outcome,omitempty"`
	Result     json.RawMessage `json:"result,omitempty"`
}

// ErrNotParked: the step does not wait for an operator; or not at all.
var ErrNotParked = errors.New("pgsagaz: the step does not wait for an operator")

// Resolve decides a step that waits for an operator, in the caller's transaction: an undo that has given up or
// is his own, a pivot of which nobody knows whether it happened, a step past the pivot that has failed.
//
// Errors: as [Engine.Cancel]; [ErrNotParked]; an outcome or a result that does not fit the step, as
// far as this process has its code. (Without it the worker checks, and refuses: the audit says why.)
func (e *Engine) Resolve(ctx context.Context, tx pgx.Tx, id, step string, r Resolution, by By) error {
	body := resolved{Outcome: r.Outcome, Result: r.Result}
	ask := request{verb: "resolve", id: id, step: step, by: by, body: body, details: map[string]any{"outcome": r.Outcome}}
	return e.askStep(ctx, tx, ask, func(g *graph, w waitingLane) error {
		if !w.parked {
			return ErrNotParked
		}
		if g == nil {
			return nil
		}
		_, err := g.resolution(task{node: g.index[step], direction: w.direction}, body)
		return err
	})
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
		if n.result != nil { // it is, where the saga's code is
			if err := guarded(func() error { return decode(r.Result, reflect.New(n.result).Interface()) }); err != nil {
				return nil, fmt.Errorf("the result does not fit %s: %w", n.result, err)
			}
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

// skip is the outcome to record where an operator wants to go on past what lane l is at.
func (g *graph) skip(l laneAt) (*record, error) {
	n := g.nodes[l.node]
	rec := &record{outcome: string(OutcomeSkipped)}
	switch {
	case l.held:
		return nil, fmt.Errorf("%w: it is running", ErrNotParked)
	case l.waits == "child":
		return nil, errors.New("it can't be skipped: its children are under way; see to them")
	case l.direction == Undo:
		return rec, nil
	case l.node == g.pivot || !n.mayLack() && n.kind != kindSleep:
		return nil, errors.New("it can't be skipped: later steps count on its result; give one")
	case l.inDoubt && n.undoable() && !g.never(l.node):
		return nil, errors.New("it can't be skipped: an attempt may have had its effect, which would never be undone; retry it, or cancel the saga")
	}
	return rec, nil
}
