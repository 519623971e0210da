package outbox

import (
	"context"
	"time"
)

const (
	holdBatch    = 64             // events of held keys that are read at once: windowBytes, if each is as large as may be
	refreshHolds = time.Second    // how often to look what operators did
	never        = 24 * time.Hour // from when on a wait is an operator's to end
)

// stuck takes in rows of outbox_stuck, of buckets that this relay has just got.
func (l *loop) stuck(rows []stuckRow) {
	now := time.Now()
	for _, r := range rows {
		l.skip[r.id] = true
		if r.done {
			continue
		}
		name := holdName(r.key, r.id)
		h := l.holds[name]
		if h == nil {
			h = &hold{name: name, bucket: r.bucket, attempts: r.attempts, nextAt: now.Add(r.wait), blocked: r.wait > never}
			l.holds[name] = h
		}
		h.ids = append(h.ids, r.id)
		l.holdsAt = now
	}
	l.watch()
}

// watch has holds looked at that only an operator can end, if there are any.
func (l *loop) watch() {
	l.refreshAt = time.Time{}
	for _, h := range l.holds {
		if h.blocked {
			l.refreshAt = time.Now().Add(refreshHolds)
			return
		}
	}
}

// reject takes in that an event was rejected. It returns the hold if it is a new one.
func (l *loop) reject(it *item, err error) (fresh *hold) {
	l.holdsAt = time.Now()
	h := it.hold
	if h == nil {
		name := holdName(it.event.Key, it.event.Sequence)
		if h = l.holds[name]; h != nil { // a publisher that rejects a second of the key broke its contract
			h.waiting = append(h.waiting, it)
			return nil
		}
		h = &hold{name: name, bucket: it.bucket, waiting: []*item{it}}
		l.holds[name], fresh = h, h
	} else {
		h.sending--
		if len(h.ids) == 0 || h.ids[0] != it.event.Sequence {
			return nil // it is tried again when it is the first
		}
		l.r.metrics.retries.Inc()
	}
	h.attempts++
	h.verdict = l.cfg.Retry.judge(it, h.attempts, err, jitter())
	h.failures = 0
	return fresh
}

// holdSent takes in that the first event of a hold was published.
func (l *loop) holdSent(h *hold, id int64) {
	h.sending--
	h.done = append(h.done, id)
	for i, x := range h.ids {
		if x == id {
			h.ids = append(h.ids[:i:i], h.ids[i+1:]...)
			break
		}
	}
	h.attempts, h.failures = 0, 0
	h.nextAt = time.Now()
}

// holdsAnswered lets holds of a batch wait for the broker, if it is the broker that failed.
func (l *loop) holdsAnswered(batch []*item, fault error, now time.Time) {
	for _, it := range batch {
		if h := it.hold; h != nil && h.sending == 0 {
			l.holdsAt = now
			if fault != nil && h.verdict == nil && len(h.done) == 0 && !now.Before(h.nextAt) {
				h.failures++
				h.nextAt = now.Add(backoff(brokerFirst, brokerMost, h.failures, jitter()))
			}
		}
	}
}

// nextHold is what the table outbox_stuck is to learn, or to be asked.
func (l *loop) nextHold(now time.Time) op {
	if !l.refreshAt.IsZero() && !now.Before(l.refreshAt) && !l.stopping {
		return l.refreshing()
	}
	if l.holdsAt.IsZero() || now.Before(l.holdsAt) {
		return nil
	}
	var put, done []int64
	var putOf, doneOf, due []*hold
	var judged *hold
	l.holdsAt = time.Time{}
	for name, h := range l.holds {
		if h.over() {
			// What came behind it can go on where it is.
			for _, it := range h.waiting {
				l.lane(h.bucket).put(it)
			}
			h.waiting = nil
			delete(l.holds, name)
			continue
		}
		if len(h.waiting) > 0 {
			putOf = append(putOf, h)
			for _, it := range h.waiting {
				put = append(put, it.event.Sequence)
			}
		}
		if h.verdict != nil && len(h.waiting) == 0 {
			judged = h
		}
		if len(h.done) > 0 && h.sending == 0 {
			doneOf, done = append(doneOf, h), append(done, h.done...)
		}
		if h.due(now) && !l.leaving[h.bucket] {
			due = append(due, h)
		} else if h.sending == 0 && !h.blocked && h.nextAt.After(now) && (l.holdsAt.IsZero() || h.nextAt.Before(l.holdsAt)) {
			l.holdsAt = h.nextAt
		}
	}
	again := func() { l.holdsAt = time.Now() }
	switch {
	case len(put) > 0:
		return l.putting(putOf, put, again)
	case judged != nil:
		return l.judging(judged, again)
	case len(done) > 0:
		return func(ctx context.Context, s *session) (func(), error) {
			return func() {
				for _, h := range doneOf {
					h.done = nil
				}
				again()
			}, s.finish(ctx, done)
		}
	case len(due) > 0 && !l.stopping && l.room() > 0:
		return l.sending(due, again)
	case len(due) > 0:
		l.holdsAt = now.Add(busyPoll)
	}
	return nil
}

// putting takes events out of the stream.
func (l *loop) putting(of []*hold, ids []int64, again func()) op {
	counts := make([]int, len(of))
	for i, h := range of {
		counts[i] = len(h.waiting)
	}
	return func(ctx context.Context, s *session) (func(), error) {
		return func() {
			for i, h := range of {
				for _, it := range h.waiting[:counts[i]] {
					h.ids = append(h.ids, it.event.Sequence)
					l.done(it)
				}
				h.waiting = h.waiting[counts[i]:]
			}
			again()
		}, s.put(ctx, ids)
	}
}

// judging records what follows from a rejection.
func (l *loop) judging(h *hold, again func()) op {
	v := h.verdict
	return func(ctx context.Context, s *session) (func(), error) {
		return func() {
			h.verdict = nil
			now := time.Now()
			log := l.r.log.With("topic", v.event.Topic, "key", v.event.Key, "event", v.event.ID, "saga", v.event.SagaID, "attempts", v.attempts, "error", v.err)
			switch {
			case !v.dead:
				h.nextAt = now.Add(v.delay)
				log.Warn("the broker rejects an event; its key waits", "retry_in", v.delay)
			case l.cfg.Retry.Then == Hold:
				h.blocked = true
				l.watch()
				log.Error("an event was rejected too often; its key waits for an operator")
			default:
				h.ids, h.attempts, h.nextAt = h.ids[1:], 0, now
				log.Error("an event was rejected too often, and was given up; its key goes on")
			}
			if v.dead {
				l.r.metrics.dead.WithLabelValues(l.r.metrics.kind(v.event.Type)).Inc()
			}
			again()
		}, s.judge(ctx, v, l.cfg.Retry.Then)
	}
}

// sending tries events of the table again.
func (l *loop) sending(due []*hold, again func()) op {
	of := map[int64]*hold{}
	var ids []int64
	for _, h := range due {
		n := h.batch()
		if len(ids) > 0 && len(ids)+n > min(l.cfg.Batch, holdBatch) {
			break
		}
		for _, id := range h.ids[:n] {
			of[id] = h
			ids = append(ids, id)
		}
		h.sending = n
	}
	return func(ctx context.Context, s *session) (func(), error) {
		items, err := s.fetch(ctx, ids)
		return func() {
			for i := range items {
				it := &items[i]
				it.hold = of[it.event.Sequence]
				l.bytes += len(it.event.Payload)
				delete(of, it.event.Sequence)
				l.lane(it.bucket).put(it)
			}
			for id, h := range of { // an operator has seen to it
				h.sending--
				h.ids = remove(h.ids, id)
			}
			again()
		}, err
	}
}

func remove(ids []int64, id int64) []int64 {
	var rest []int64
	for _, x := range ids {
		if x != id {
			rest = append(rest, x)
		}
	}
	return rest
}

// refreshing looks what operators did to blocked holds.
func (l *loop) refreshing() op {
	var list []int16
	for _, h := range l.holds {
		if h.blocked {
			list = append(list, h.bucket)
		}
	}
	return func(ctx context.Context, s *session) (func(), error) {
		rows, err := s.stuck(ctx, list)
		return func() {
			now := time.Now()
			first := map[int64]stuckRow{}
			for _, r := range rows {
				first[r.id] = r
			}
			for _, h := range l.holds {
				if !h.blocked || len(h.ids) == 0 {
					continue
				}
				r, there := first[h.ids[0]]
				switch {
				case !there || r.done: // dropped; what is done is cleared away
					h.ids = h.ids[1:]
				case r.wait > never:
					continue
				}
				h.blocked, h.attempts, h.nextAt = false, 0, now
				l.holdsAt = now
			}
			l.watch()
		}, err
	}
}
