//go:build unix

package integration

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// faultyLog is the log of a broker that fails now and then, before or after it has taken what is published.
type faultyLog struct {
	broker  *memorysub.Broker
	trouble atomic.Int64 // of 100 calls, how many fail

	mu     sync.Mutex
	log    []outbox.Event // as they arrived
	failed int
}

// Publish is [outbox.Publisher]'s.
func (f *faultyLog) Publish(_ context.Context, events []outbox.Event) []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := make([]error, len(events))
	fails := rand.Int64N(100) < f.trouble.Load()
	if fails {
		f.failed++
		for i := range errs {
			errs[i] = errors.New("the broker is in trouble")
		}
	}
	if fails && rand.IntN(2) == 0 {
		return errs
	}
	for _, e := range events { // at the worst moment all is taken, and it says that nothing was
		f.log = append(f.log, e)
		f.broker.Publish(inbox.Message{ID: e.ID.String(), Topic: e.Topic, Key: e.Key, Type: e.Type, Payload: e.Payload})
	}
	return errs
}

// Close is [outbox.Publisher]'s.
func (*faultyLog) Close() error { return nil }

func (f *faultyLog) arrived() []outbox.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log[:len(f.log):len(f.log)]
}
