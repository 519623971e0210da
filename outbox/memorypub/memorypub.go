// Package memorypub is a broker in memory: for tests, demonstrations and measurements. It acknowledges at
// once and forgets with the process.
package memorypub

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// Config of a [Broker]. The zero value of each field is its default.
type Config struct {
	MaxPayload int      // bytes; a larger one is rejected; 0: none is
	Topics     []string // events of other topics are rejected; nil: none are
	Discard    bool     // events are counted and forgotten, for programs that run on
}

// Broker keeps what is published, in one log, unless it is to discard it. It is an [outbox.Publisher], and its methods may be called at once.
type Broker struct {
	cfg Config

	mu     sync.Mutex
	log    []outbox.Event
	count  int
	closed bool
}

// New makes an empty broker.
func New(cfg Config) *Broker { return &Broker{cfg: cfg} }

// Publish appends the events that are not rejected, and answers as [outbox.Publisher] asks.
func (b *Broker) Publish(ctx context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	if err := ctx.Err(); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var held map[string]bool // keys with an event that was rejected
	for i, e := range events {
		switch err := b.reject(e); {
		case b.closed:
			errs[i] = fmt.Errorf("memorypub: the broker is closed")
		case e.Key != "" && held[e.Key]:
			errs[i] = outbox.ErrHeld
		case err != nil:
			errs[i] = &outbox.RejectedError{Err: err}
			if held == nil {
				held = map[string]bool{}
			}
			held[e.Key] = true
		default:
			b.count++
			if !b.cfg.Discard {
				b.log = append(b.log, e)
			}
		}
	}
	return errs
}

func (b *Broker) reject(e outbox.Event) error {
	if b.cfg.MaxPayload > 0 && len(e.Payload) > b.cfg.MaxPayload {
		return fmt.Errorf("memorypub: payload of %d bytes, the limit is %d", len(e.Payload), b.cfg.MaxPayload)
	}
	if b.cfg.Topics != nil && !slices.Contains(b.cfg.Topics, e.Topic) {
		return fmt.Errorf("memorypub: no topic %q", e.Topic)
	}
	return nil
}

// Events are those of topic in the order in which they arrived; "": of all topics.
func (b *Broker) Events(topic string) []outbox.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	if topic == "" {
		return slices.Clone(b.log)
	}
	var events []outbox.Event
	for _, e := range b.log {
		if e.Topic == topic {
			events = append(events, e)
		}
	}
	return events
}

// Len is how many events have arrived.
func (b *Broker) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// Clear forgets them.
func (b *Broker) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log, b.count = nil, 0
}

// Close makes later calls of Publish fail. What arrived stays readable.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}
