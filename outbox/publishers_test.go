package outbox_test

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
)

// partly is a broker of which the part that has the key "down" is away.
type partly struct {
	outbox.Publisher
	down *atomic.Bool
}

func (p partly) Publish(ctx context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	for i, e := range events {
		if e.Key == "down" && p.down.Load() {
			errs[i] = errors.New("no leader")
			continue
		}
		errs[i] = p.Publisher.Publish(ctx, []outbox.Event{e})[0]
	}
	return errs
}

// answers changes what a publisher answers.
type answers struct {
	outbox.Publisher
	change func([]error) []error
}

func (a answers) Publish(ctx context.Context, events []outbox.Event) []error {
	return a.change(a.Publisher.Publish(ctx, events))
}

// poisoned rejects what a poison says.
type poisoned struct {
	outbox.Publisher
	poison *poison
}

func (p poisoned) Publish(ctx context.Context, events []outbox.Event) []error {
	return (&outboxtest.Faulty{Publisher: p.Publisher, Poison: p.poison.reject}).Publish(ctx, events)
}
