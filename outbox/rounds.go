package outbox

import (
	"context"
	"sync"
)

// Rounds publishes for adapters whose broker takes events in lots: to a partition, a stream, a channel. It keeps the
// order of keys between lots. Within a lot Send keeps it.
//
//	events   a1 b1 a2 c1 a3       (a2 is for another target than a1 and a3)
//	round 1  lot X: a1 b1  lot Y: c1     at once
//	round 2  lot Y: a2
//	round 3  lot X: a3            unless a2 failed: then a3 is [ErrHeld]
type Rounds struct {
	// Target names the lot of an event.
	Target func(e Event) string
	// OneAKey: a lot has but one event of each key, for brokers that may refuse one and take the next.
	OneAKey bool
	// Send sends a lot, and answers as [Publisher] does. It is called for several lots at once.
	Send func(ctx context.Context, target string, lot []Event) []error
}

// Publish is [Publisher].Publish.
func (r Rounds) Publish(ctx context.Context, events []Event) []error {
	errs := make([]error, len(events))
	held := map[string]bool{} // keys of which an event was not acknowledged
	rest := make([]int, len(events))
	for i := range events {
		rest[i] = i
	}
	for len(rest) > 0 {
		var lots map[string][]int
		lots, rest = r.split(events, rest)
		var wg sync.WaitGroup
		for target, lot := range lots {
			if len(lots) == 1 {
				r.send(ctx, target, events, lot, errs)
				break
			}
			wg.Go(func() { r.send(ctx, target, events, lot, errs) })
		}
		wg.Wait()
		for _, lot := range lots {
			for _, i := range lot {
				if errs[i] != nil && events[i].Key != "" {
					held[events[i].Key] = true
				}
			}
		}
		left := rest[:0]
		for _, i := range rest {
			if held[events[i].Key] {
				errs[i] = ErrHeld
			} else {
				left = append(left, i)
			}
		}
		rest = left
	}
	return errs
}

// split takes for the next round what may go at once, and leaves what has to wait for an earlier event of its key.
func (r Rounds) split(events []Event, rest []int) (lots map[string][]int, later []int) {
	lots = map[string][]int{}
	targets := map[string]string{} // where a key's first events of this round go
	waits := map[string]bool{}
	for _, i := range rest {
		key, target := events[i].Key, r.Target(events[i])
		if key != "" {
			first, begun := targets[key]
			if waits[key] || begun && (r.OneAKey || first != target) {
				waits[key] = true
				later = append(later, i)
				continue
			}
			targets[key] = target
		}
		lots[target] = append(lots[target], i)
	}
	return lots, later
}

func (r Rounds) send(ctx context.Context, target string, events []Event, lot []int, errs []error) {
	part := make([]Event, len(lot))
	for j, i := range lot {
		part[j] = events[i]
	}
	for j, err := range r.Send(ctx, target, part) {
		errs[lot[j]] = err
	}
}
