package inbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// lane handles the messages of some of the keys, in order, one transaction at a time. What fails is set
// aside with its key, and the others flow.
type lane struct {
	c    *Consumer
	kick chan struct{} // has an element after put

	mu       sync.Mutex
	incoming []*item

	// Only touched by run.
	ready []*item
	holds map[string]*hold
	rest  []*item // waited behind the item that is being tried again
	tried bool    // the last that next gave was such an item
}

// hold is a message that has failed and waits for its next attempt, with what waits behind it.
type hold struct {
	at    time.Time
	queue []*item // the first is the one that failed
}

// verdict is why an item is to be given up without another attempt.
type verdict struct {
	reason string
	err    error
}

func newLane(c *Consumer) *lane {
	return &lane{c: c, kick: make(chan struct{}, 1), holds: map[string]*hold{}}
}

func (l *lane) put(it *item) {
	l.mu.Lock()
	l.incoming = append(l.incoming, it)
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// run works until stop ends; what has begun by then may go on until hard does.
func (l *lane) run(stop, hard context.Context) {
	for stop.Err() == nil {
		batch, wait := l.next()
		if len(batch) > 0 {
			l.work(stop, hard, batch)
			l.rejoin(batch[0])
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-stop.Done():
		case <-l.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next is what to do now, or for how long there is nothing.
func (l *lane) next() (batch []*item, wait time.Duration) {
	l.mu.Lock()
	l.ready = append(l.ready, l.incoming...)
	l.incoming = nil
	l.mu.Unlock()

	// By turns: messages that fail slowly are due again as soon as they have failed, and would leave no time for the others.
	fresh := l.tried && len(l.ready) > 0
	l.tried = false
	wait = time.Hour
	for key, h := range l.holds {
		due := time.Until(h.at)
		if due <= 0 && !fresh {
			delete(l.holds, key)
			l.rest = h.queue[1:]
			l.tried = true
			return h.queue[:1:1], 0
		}
		wait = min(wait, due)
	}
	for len(batch) < l.c.cfg.Batch && len(batch) < len(l.ready) {
		if l.ready[len(batch)].alone() {
			if len(batch) == 0 {
				batch = l.ready[:1:1]
			}
			break
		}
		batch = l.ready[: len(batch)+1 : len(batch)+1]
	}
	l.ready = l.ready[len(batch):]
	return batch, wait
}

// rejoin lets go on what waited behind an item that was tried again, or has it wait on.
func (l *lane) rejoin(tried *item) {
	rest := l.rest
	l.rest = nil
	if len(rest) == 0 {
		return
	}
	if h := l.holds[l.holdKey(tried)]; h != nil {
		h.queue = append(h.queue, rest...)
		return
	}
	l.ready = append(slices.Clone(rest), l.ready...)
}

// holdKey is what waits with the item: the messages of its key, or nothing but itself.
func (l *lane) holdKey(it *item) string {
	if l.c.cfg.MoveOn || it.m.Key == "" || it.dead != 0 || failpoint.Mutant("inbox.key-not-held") {
		return "\x00" + it.id.String()
	}
	return it.m.Key
}

func (l *lane) hold(it *item, delay time.Duration) {
	it.failed = true
	key := l.holdKey(it)
	if h := l.holds[key]; h != nil { // the same event, delivered twice
		h.queue = append(h.queue, it)
		return
	}
	l.holds[key] = &hold{at: time.Now().Add(delay), queue: []*item{it}}
}

// admit leaves out what has to wait behind a held message, and what the broker has given to somebody else. Only what
// is about to be worked is asked: a message that joined the held ones past an earlier one in ready would
// come before it.
func (l *lane) admit(items []*item) []*item {
	var admitted []*item
	for _, it := range items {
		select {
		case <-it.delivery.Revoked:
			l.c.forget(it)
			continue
		default:
		}
		if h := l.holds[l.holdKey(it)]; h != nil {
			it.ended = nil // what it failed on may be different once those before it are done
			h.queue = append(h.queue, it)
			continue
		}
		admitted = append(admitted, it)
	}
	return admitted
}

// suspect is after how many deliveries a message may have killed the processes that handled it. Most have
// only stood in line where one died, or a partition moved.
const suspect = 10

// alone says whether an item must not share a transaction.
func (it *item) alone() bool {
	return it.verdict != nil || it.failed || it.delivery.Redelivered >= suspect
}

// work deals with items. Those that were in a transaction that failed are tried in smaller ones, until each
// is done or has failed alone.
func (l *lane) work(stop, hard context.Context, items []*item) {
	todo := [][]*item{items}
	passed := 0 // transactions in a row that failed by nobody's fault
	for len(todo) > 0 {
		batch := l.admit(todo[0])
		todo = todo[1:]
		if len(batch) == 0 {
			continue
		}
		if stop.Err() != nil {
			l.ready = append(slices.Concat(append([][]*item{batch}, todo...)...), l.ready...)
			return
		}
		if len(batch) == 1 && !l.mayTry(hard, batch[0]) {
			continue
		}
		if failpoint.Mutant("inbox.ack-before-commit") {
			for _, it := range batch {
				l.c.ack(hard, []Delivery{it.delivery})
			}
		}
		r, err := l.c.worker.run(hard, batch)
		if err == nil {
			passed = 0
			l.done(hard, batch[:len(r.outcomes)], r)
			todo = append([][]*item{batch[len(r.outcomes):]}, todo...)
			continue
		}
		if isPassing(err) {
			passed++
			todo = append(l.again(stop, hard, batch, err, passed), todo...)
			continue
		}
		passed = 0
		todo = append(l.split(hard, batch, err), todo...)
	}
}

// again is what to do after a transaction that was undone by nobody's fault, for the passed-th time in a row. Where
// conflicts go on, smaller transactions have fewer; a message that has them alone waits with its key, and
// lets the others by. Attempts are not counted.
func (l *lane) again(stop, hard context.Context, batch []*item, err error, passed int) [][]*item {
	if stop.Err() == nil {
		l.c.log.WarnContext(hard, "a transaction was undone by nobody's fault; trying again", "messages", len(batch), "error", err)
	}
	if e, ok := errors.AsType[*passingError](err); !ok || !e.conflict {
		_ = pause(stop, Backoff{5 * time.Millisecond, 2 * time.Second}.delay(passed))
		return [][]*item{batch}
	}
	switch _ = pause(stop, Backoff{5 * time.Millisecond, 100 * time.Millisecond}.delay(passed)); {
	case passed < 3:
		return [][]*item{batch}
	case len(batch) > 1:
		return [][]*item{batch[:len(batch)/2], batch[len(batch)/2:]}
	default:
		it := batch[0]
		it.passes++
		l.hold(it, l.c.cfg.Backoff.delay(it.passes))
		return nil
	}
}

// split makes smaller batches of one that has failed. The blamed one is tried alone, unless there is no
// need to: only alone a failure is its own.
func (l *lane) split(hard context.Context, batch []*item, err error) [][]*item {
	b, known := errors.AsType[*blamed](err)
	switch {
	case len(batch) == 1:
		l.failed(hard, batch[0], err)
		return nil
	case known && (errors.As(err, new(*TerminalError)) || errors.As(err, new(*LaterError))):
		before, it, after := batch[:b.item], batch[b.item], batch[b.item+1:]
		// Those before it come first, if they are of its key.
		l.c.log.DebugContext(hard, "a message is taken out of its batch", "event", it.m.ID, "error", err)
		it.ended = err
		return [][]*item{before, {it}, after}
	case known:
		return [][]*item{batch[:b.item], batch[b.item : b.item+1], batch[b.item+1:]}
	default:
		half := len(batch) / 2
		return [][]*item{batch[:half], batch[half:]}
	}
}

// done ends what a transaction has dealt with.
func (l *lane) done(hard context.Context, items []*item, r report) {
	settled := make([]*item, 0, len(items))
	for i, it := range items {
		if why := r.outcomes[i].err(); why != nil {
			l.giveUp(hard, it, string(r.outcomes[i]), why)
			continue
		}
		l.c.metrics.done(r.outcomes[i], it.m.Type, r.took[i])
		settled = append(settled, it)
	}
	l.c.settle(hard, settled)
}

// leftovers are the deliveries that were not dealt with. run has returned.
func (l *lane) leftovers() (back []Delivery) {
	all := slices.Concat(l.rest, l.ready, l.incoming)
	for _, h := range l.holds {
		all = append(all, h.queue...)
	}
	for _, it := range all {
		if it.dead == 0 {
			back = append(back, it.delivery)
		}
	}
	return back
}
