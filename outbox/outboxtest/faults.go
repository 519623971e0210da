package outboxtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// Fault is what goes wrong with one call of Publish.
type Fault int

// The faults.
const (
	None       Fault = iota
	FailBefore       // nothing is sent
	LoseAck          // all is sent, and the answer is lost: the caller hears of a failure
	Partial          // of each key a part is sent and acknowledged, and the rest is not sent
	PartialAck       // as Partial, and the last of what was sent is not acknowledged either
	Slow             // all is sent, late
	Hang             // nothing is sent, and the call waits for the end of its ctx
)

// ErrFault is what events hear that met a fault.
var ErrFault = errors.New("outboxtest: the broker is at fault")

// Faulty is a publisher whose calls go wrong. It keeps the contract of [outbox.Publisher] whatever
// happens, as far as the publisher behind it does.
type Faulty struct {
	outbox.Publisher

	// Next chooses the fault of a call; nil: None. It must stand being called at once.
	Next func(events []outbox.Event) Fault
	// Poison says why an event is rejected; nil: none is.
	Poison func(e outbox.Event) error
	// Away says of which events the part of the broker is away, a topic say; nil: of none. They meet [ErrFault].
	Away func(e outbox.Event) bool
	// Stall makes a call with such events answer only when its ctx ends, as clients do that wait for a leader.
	Stall bool
	// Delay is how long Slow takes. 0: 5 ms.
	Delay time.Duration

	down  atomic.Bool
	calls atomic.Int64
}

// Down makes every call fail before anything is sent, until Up.
func (f *Faulty) Down() { f.down.Store(true) }

// Up ends what Down began.
func (f *Faulty) Up() { f.down.Store(false) }

// Calls is how often Publish was called.
func (f *Faulty) Calls() int { return int(f.calls.Load()) }

// Publish publishes what the fault leaves of events.
func (f *Faulty) Publish(ctx context.Context, events []outbox.Event) []error {
	f.calls.Add(1)
	fault := None
	if f.Next != nil {
		fault = f.Next(events)
	}
	if f.down.Load() {
		fault = FailBefore
	}
	switch fault {
	case FailBefore:
		return all(len(events), ErrFault)
	case Hang:
		<-ctx.Done()
		return all(len(events), ctx.Err())
	case LoseAck:
		f.send(ctx, events, nil)
		return all(len(events), ErrFault)
	case Slow:
		select {
		case <-time.After(max(f.Delay, 5*time.Millisecond)):
		case <-ctx.Done():
			return all(len(events), ctx.Err())
		}
	case Partial, PartialAck:
		cut := cuts(events)
		errs := f.send(ctx, events, cut)
		if fault == PartialAck {
			seen := map[string]int{}
			for i, e := range events {
				if seen[e.Key]++; errs[i] == nil && (e.Key == "" || seen[e.Key] == cut[e.Key]) {
					errs[i] = ErrFault
				}
			}
		}
		return errs
	}
	return f.send(ctx, events, nil)
}

// send passes on the first events of each key, as many as cut says (nil: all), up to a poisoned one.
func (f *Faulty) send(ctx context.Context, events []outbox.Event, cut map[string]int) []error {
	errs := make([]error, len(events))
	var part []outbox.Event
	var at []int // where in events they are
	seen, held, away := map[string]int{}, map[string]bool{}, false
	for i, e := range events {
		seen[e.Key]++
		switch {
		case e.Key != "" && held[e.Key]:
			errs[i] = outbox.ErrHeld
			continue
		case cut != nil && seen[e.Key] > cut[e.Key]:
			errs[i] = ErrFault
			held[e.Key] = true
			continue
		case f.Away != nil && f.Away(e):
			errs[i] = ErrFault
			held[e.Key], away = true, true
			continue
		case f.Poison != nil:
			if err := f.Poison(e); err != nil {
				errs[i] = &outbox.RejectedError{Err: err}
				held[e.Key] = true
				continue
			}
		}
		part, at = append(part, e), append(at, i)
	}
	for i, err := range f.Publisher.Publish(ctx, part) {
		errs[at[i]] = err
	}
	if away && f.Stall {
		<-ctx.Done()
	}
	return errs
}

// cuts says how many events of each key are let through.
func cuts(events []outbox.Event) map[string]int {
	n := map[string]int{}
	for _, e := range events {
		n[e.Key]++
	}
	for k := range n {
		n[k] = rand.IntN(n[k] + 1)
	}
	return n
}

func all(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// Storm is a Next for [Faulty]: one call in rate meets a fault, any but Hang.
func Storm(rate int) func([]outbox.Event) Fault {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	return func([]outbox.Event) Fault {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(rate) > 0 {
			return None
		}
		return []Fault{FailBefore, LoseAck, Partial, PartialAck, Slow}[random.IntN(5)]
	}
}
