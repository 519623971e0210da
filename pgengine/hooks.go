package pgengine

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Event is something that has become of a saga, or of one of its steps, for good.
type Event struct {
	SagaID  string
	Saga    string
	Version int
	Step    string // "": it is about the saga as a whole
	// Direction is that of the step; "" of a saga.
	Direction Direction
	// State is what has become of a step, which is done, failed, nothing (an undo that found no effect) or skipped; or of a
	// saga: running as it begins, completed or compensated as it ends.
	State   string
	InDoubt bool   // the step failed, and may have had its effect
	Error   string // of a step that failed
}

// Hook is called in the transaction that records an event, before its commit: what it writes and publishes is there with the
// event, or not at all. It holds the saga's lock meanwhile: it should be quick, and never calls the outside. All results
// that there are can be asked for with Maybe.
//
// Its error, or panic, takes back what it would have gone with. Where that is a step's success, the step has failed as if
// its Do had; anything else is tried again, some seconds later, for as long as it takes.
type Hook[I Input] func(ctx context.Context, tx pgx.Tx, c Call[I], ev Event) error

// hookError is what a hook said, and not the database.
type hookError struct{ err error }

func (e *hookError) Error() string { return "a hook of the saga: " + e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }

// hook is a Hook without its types.
type hook func(ctx context.Context, tx pgx.Tx, c *call, ev Event) error

type hooks struct{ start, step, end hook } // nil: none

func (h hooks) any() bool { return h.start != nil || h.step != nil || h.end != nil }

func hookOf[I Input](h Hook[I]) hook {
	if h == nil {
		return nil
	}
	return func(ctx context.Context, tx pgx.Tx, c *call, ev Event) error {
		typed, err := typedCall[I](c)
		if err != nil {
			return err
		}
		return h(ctx, tx, typed, ev)
	}
}

// of is the hook that an event is for.
func (h hooks) of(ev Event) hook {
	switch {
	case ev.Step != "":
		return h.step
	case ev.State == string(Running):
		return h.start
	}
	return h.end
}

// event is what rec says of t.
func (g *graph) event(sagaID string, t task, rec *record) Event {
	return Event{
		SagaID: sagaID, Saga: g.name, Version: g.version, Step: g.nodes[t.node].name, Direction: t.direction,
		State: rec.outcome, InDoubt: rec.inDoubt, Error: rec.err,
	}
}

// passage is the event of a saga that begins or ends.
func (g *graph) passage(sagaID string, s State) Event {
	return Event{SagaID: sagaID, Saga: g.name, Version: g.version, State: string(s)}
}

// happened is what a settlement records, beside what was recorded before it in its transaction.
func (s *settlement) happened() (events []Event) {
	if s.rec != nil {
		events = append(events, s.g.event(s.sagaID, s.at, s.rec))
	}
	if s.state.Ended() {
		events = append(events, s.g.passage(s.sagaID, s.state))
	}
	return events
}

// callHooks has them write what goes with events. input nil: it has yet to be read. A saga whose subject was erased has nothing
// to show to a hook: it goes on without.
func (e *Engine) callHooks(ctx context.Context, tx *stepTx, g *graph, key codec.Key, input json.RawMessage, results map[string]json.RawMessage, events []Event) error {
	for _, ev := range events {
		h := g.hooks.of(ev)
		if h == nil {
			continue
		}
		if input == nil {
			var stored json.RawMessage
			err := tx.QueryRow(ctx, sql.SagaLock, ev.SagaID).Scan(nil, nil, nil, &stored, nil, nil, nil, nil, nil, nil)
			if err != nil {
				return answered(err)
			}
			input, err = e.open(ctx, tx, atInput(g.name), stored)
			if errors.Is(err, codec.ErrErased) {
				e.log.WarnContext(ctx, "no hook is called: the saga's payloads were erased", "saga", g.name, "saga_id", ev.SagaID, "step", ev.Step)
				return nil
			}
			if err != nil {
				return err
			}
		}
		c := &call{sagaID: ev.SagaID, step: ev.Step, direction: ev.Direction, input: input, results: results}
		err := guarded(func() error { return h(codec.WithKey(sql.WithStep(ctx, ev.SagaID, ev.Step), e.codec, key), tx, c, ev) })
		if err == nil {
			err = tx.owned()
		}
		if err != nil && tx.lost(err) { // the database's absence, and nobody's refusal
			return &unavailableError{err}
		}
		if err != nil {
			return &hookError{err}
		}
	}
	return nil
}

// resultsOf are those that are known under the lock, and the one that is about to be. What was erased is missing.
func (e *Engine) resultsOf(ctx context.Context, tx *stepTx, g *graph, rows []stepRow, step string, rec *record) (map[string]json.RawMessage, error) {
	results := map[string]json.RawMessage{}
	for _, r := range rows { // by generation: the latest wins
		if r.direction != Do || r.outcome != "done" {
			continue
		}
		result, err := e.open(ctx, tx, atResult(g.name), r.result)
		switch {
		case err == nil:
			results[r.step] = result
		case !errors.Is(err, codec.ErrErased):
			return nil, err
		}
	}
	if rec != nil && rec.outcome == "done" && rec.result != nil {
		results[step] = rec.result
	}
	return results, nil
}

// told tells the listener of what is committed.
func (e *Engine) told(events ...Event) {
	if e.listener == nil {
		return
	}
	for _, ev := range events {
		if err := guarded(func() error { e.listener(ev); return nil }); err != nil {
			e.log.Error("the listener panicked", "saga", ev.Saga, "saga_id", ev.SagaID, "step", ev.Step, "error", err)
		}
	}
}

// inHookTx runs f in a transaction, and commits.
func (e *Engine) inHookTx(ctx context.Context, l *lane, f func(*stepTx) error) error {
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return err
	}
	defer tx.close()
	if err := f(tx); err != nil {
		return err
	}
	return tx.commit(ctx, func(*pgx.Batch) {})
}
