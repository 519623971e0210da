package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// dispatch begins a call for every lane that can have one, and says how long until another can.
func (l *loop) dispatch(now time.Time) time.Duration {
	wait := time.Second
	for _, x := range l.all {
		if l.abandon || l.stopping && x.failures > 0 {
			continue
		}
		batch, next := x.pick(now, l.cfg.Batch)
		if slices.ContainsFunc(batch, func(it *item) bool { return it.shelved }) {
			l.bare = append(l.bare, x)
		} else if len(batch) > 0 {
			l.call(x, batch)
		} else if !next.IsZero() {
			wait = min(wait, max(next.Sub(now), 100*time.Microsecond))
		}
	}
	return wait
}

func (l *loop) call(x *lane, batch []*item) {
	events := make([]Event, len(batch))
	timeout, eager := l.cfg.PublishTimeout, false
	for i, it := range batch {
		events[i] = it.event
		eager = eager || it.eager
	}
	if eager {
		timeout = min(timeout, l.cfg.Optimistic.Timeout)
	}
	l.r.metrics.calling(events)
	spans := l.r.spans(events)
	begun := time.Now()
	l.calls.Go(func() {
		ctx, cancel := context.WithTimeout(l.calling, timeout)
		defer cancel()
		failpoint.Hit("outbox.publish.before")
		errs := l.r.open.Publish(ctx, events)
		failpoint.Hit("outbox.publish.after")
		endSpans(spans, errs)
		l.r.metrics.called(events, time.Since(begun))
		l.answers <- answer{lane: x, errs: errs, eager: eager, late: ctx.Err() != nil}
	})
}

// answered takes in what the publisher said.
func (l *loop) answered(a answer) {
	now := time.Now()
	batch := a.lane.inFlight
	m := l.r.metrics
	if len(a.errs) != len(batch) {
		err := fmt.Errorf("outbox: the publisher gave %d answers to %d events", len(a.errs), len(batch))
		l.r.log.Error("a publisher breaks its contract; the events are sent again", "error", err)
		a.errs = slices.Repeat([]error{err}, len(batch))
	}
	var failed []*item
	var fault error // of the broker
	acked := false
	fresh := map[*hold]bool{} // holds that begin here
	counts := map[string]int{}
	for i, it := range batch {
		err := a.errs[i]
		if it.hold != nil {
			l.bytes -= len(it.event.Payload) // it is read again, should it be tried again
		}
		l.optimistic(it, err, a.late, now)
		switch {
		case err == nil:
			acked = true
			counts[m.kind(it.event.Type)]++
			if it.hold != nil {
				l.holdSent(it.hold, it.event.Sequence)
			} else {
				l.done(it)
			}
			continue
		case errors.As(err, new(*RejectedError)), failpoint.Mutant("outbox.outage-burns-attempts"):
			m.failed.WithLabelValues(m.kind(it.event.Type), "rejected").Inc()
			if h := l.reject(it, err); h != nil {
				fresh[h] = true
			}
			continue
		case !errors.Is(err, ErrHeld):
			m.failed.WithLabelValues(m.kind(it.event.Type), "broker").Inc()
			fault = err
		}
		if it.hold != nil {
			it.hold.sending--
			continue // it is in the table
		}
		failed = append(failed, it)
	}
	for kind, n := range counts {
		m.published.WithLabelValues(kind).Add(float64(n))
		l.r.published.Add(int64(n))
	}
	l.holdsAnswered(batch, fault, now)
	// Of keys that were held just now, nothing may be sent again before the table says so.
	failed = slices.DeleteFunc(failed, func(it *item) bool {
		h := l.held(it)
		if h != nil {
			h.waiting = append(h.waiting, it)
		}
		return h != nil
	})
	if len(fresh) > 0 { // what is queued waits too
		for _, it := range a.lane.takeOut(func(it *item) bool { return it.hold == nil && fresh[l.held(it)] }) {
			h := l.held(it)
			h.waiting = append(h.waiting, it)
		}
	}
	if acked || fault == nil {
		l.r.health.answered(nil)
	} else {
		l.r.health.answered(fault)
	}
	if fault != nil && len(failed) > 0 && a.lane.failures == 0 && !acked {
		l.r.log.Warn("the broker does not take events; trying again until it does", "error", fault)
	}
	for _, it := range failed {
		if it.shelved {
			it.strip()
		}
	}
	// A batch that was rejected as a whole shows that the broker is there.
	a.lane.answered(now, failed, acked || fault == nil, now.Sub(l.ackedAt) < partial, jitter())
	if acked {
		l.ackedAt = now
	}
}

// optimistic counts an event's first attempt, if a wake caused it.
func (l *loop) optimistic(it *item, err error, late bool, now time.Time) {
	if it.eager {
		it.eager = false
		l.r.metrics.optimistic(err, late, now.Sub(it.readAt)+it.age)
	}
}
