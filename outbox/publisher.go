package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
)

// Event is a message as it leaves for a broker.
type Event struct {
	Sequence    int64 // of the outbox: it grows along a key wherever order is promised; it has gaps
	ID          uuid.UUID
	Topic       string
	Key         string // "": none
	RoutingKey  string
	Type        string
	Payload     []byte
	Headers     map[string]string
	TraceParent string
	SagaID      string // "": not written by a step
	Step        string
	CreatedAt   time.Time // by the database's clock
	Replayed    bool      // sent again on purpose, by a replay
}

// Publisher hands events to a broker. Every adapter passes outboxtest.TestPublisher.
type Publisher interface {
	// Publish sends events and answers with one error for each, in their order; nil: the broker has
	// acknowledged it for good.
	//
	// A [RejectedError] blames the event: sending it again will not help (too large, no such topic).
	// Any other error blames the broker or the way to it; the event may or may not have arrived, and
	// is sent again.
	//
	// Within a call, events of one key arrive in their order, and once one of them was not acknowledged
	// none after it arrives: the publisher answers for that, with requests of one event a key if
	// its broker can't. Calls for different keys run at once; the caller never has two calls under
	// way for one key. Publish returns when ctx ends, and what it has sent by then may still arrive.
	Publish(ctx context.Context, events []Event) []error
	// Close lets go of connections. No Publish is under way or follows.
	Close() error
}

// ErrHeld is what a publisher says of an event that it did not send, since an earlier one of its key was not
// acknowledged. Nobody is to blame for it.
var ErrHeld = errors.New("outbox: held back behind an earlier event of its key")

// RejectedError: the event itself was refused.
type RejectedError struct{ Err error }

func (e *RejectedError) Error() string { return "rejected: " + e.Err.Error() }

// Unwrap gives what the broker said.
func (e *RejectedError) Unwrap() error { return e.Err }
