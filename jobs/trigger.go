package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// ErrIgnore is what a transform returns for an event that is to start, or to signal, nothing.
var ErrIgnore = errors.New("jobs: the event starts no saga")

// TriggerOptions tune [StartOn]. nil and the zero value are the defaults.
type TriggerOptions struct {
	// Key makes the start key, by which others may signal the saga; an event that comes with the key of another
	// one starts nothing, and is dead-lettered if its input is another. nil: made of the event's id.
	Key     func(m inbox.Message) string
	Tags    []string      // of the sagas, to find them by
	Timeout time.Duration // of the sagas; 0: the definition's
	// MaxRunning is how many sagas of the name may run at once, however they were started: an event that
	// comes while there are as many starts its saga later. Such starts stand in line. 0: no limit.
	MaxRunning int
	// Pause is how long such an event waits before it looks again. 0: 1 s.
	Pause time.Duration
}

// StartOn makes a handler that starts a saga for each event, in the transaction that records the event: once,
// however often it is delivered, and not at all if that transaction does not commit. transform makes the saga's
// input; [FromJSON] is one. Combine it with [inbox.ByType] to choose events, and with [inbox.Rate] to limit how many start.
//
// The start key is made of the event's id, unless the options make another, so that a second trigger of the same saga
// for the same event starts no other.
func StartOn[I pgengine.Input](e *pgengine.Engine, transform func(inbox.Message) (I, error), opts *TriggerOptions) inbox.Handler {
	o := TriggerOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Pause <= 0 {
		o.Pause = time.Second
	}
	return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		in, err := transform(m)
		if errors.Is(err, ErrIgnore) {
			return nil
		}
		if err != nil {
			return err
		}
		if o.MaxRunning > 0 {
			if err := room(ctx, tx, in.SagaName(), o); err != nil {
				return err
			}
		}
		key := "event " + m.EventID().String()
		if o.Key != nil {
			key = o.Key(m)
		}
		_, err = e.Start(ctx, tx, in, &pgengine.StartOptions{
			Key: key, Tags: o.Tags, Timeout: o.Timeout, TraceParent: traceParent(ctx, m),
		})
		if errors.Is(err, pgengine.ErrOtherInput) || errors.Is(err, pgengine.ErrTooLarge) {
			return inbox.Terminal(err)
		}
		return err
	}
}

// traceParent is the context that a saga's trace goes on from: the span of handling the event, if there is one, within which
// the event's own is known.
func traceParent(ctx context.Context, m inbox.Message) string {
	if here := tracing.Of(ctx); here != "" {
		return here
	}
	return m.TraceParent
}

// room asks whether one more may run. The lock comes first, in a statement of its own: whoever had it has
// committed by then, and is counted.
func room(ctx context.Context, tx pgx.Tx, name string, o TriggerOptions) error {
	if _, err := tx.Exec(ctx, sql.TriggerLock, name); err != nil {
		return fmt.Errorf("trigger of saga %s: %w", name, err)
	}
	var running int
	if err := tx.QueryRow(ctx, sql.TriggerRunning, name).Scan(&running); err != nil {
		return fmt.Errorf("trigger of saga %s: %w", name, err)
	}
	if running >= o.MaxRunning {
		return inbox.Later(o.Pause, fmt.Sprintf("%d sagas %s are running", running, name))
	}
	return nil
}

// SignalOn makes a handler that signals a saga for each event, in the transaction that records the event. transform says
// which saga, and what it is told. A saga that is not there yet is waited for, as a failing handler is; one that
// has ended is told nothing.
func SignalOn[S pgengine.Signal](e *pgengine.Engine, transform func(inbox.Message) (pgengine.Target, S, error)) inbox.Handler {
	return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		to, signal, err := transform(m)
		if errors.Is(err, ErrIgnore) {
			return nil
		}
		if err != nil {
			return err
		}
		err = e.Signal(ctx, tx, to, signal)
		switch {
		case errors.Is(err, pgengine.ErrEnded):
			return nil
		case errors.Is(err, pgengine.ErrNoSignal) || errors.Is(err, pgengine.ErrTooLarge):
			return inbox.Terminal(err)
		}
		return err
	}
}

// FromJSON is a transform whose event is the input itself, as JSON. An event that does not fit is dead-lettered at
// once. Fields that the input has not are passed over, as a sender may add some.
func FromJSON[I pgengine.Input](m inbox.Message) (in I, err error) {
	if err := json.Unmarshal(m.Payload, &in); err != nil {
		return in, inbox.Terminal(fmt.Errorf("event %s is no input of saga %s: %w", m.ID, in.SagaName(), err))
	}
	return in, nil
}
