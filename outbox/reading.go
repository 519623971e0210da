package outbox

import (
	"context"
	"slices"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// wants are the spans to be read.
func (l *loop) wants() (wants []want) {
	drains := l.drains()
	for _, s := range l.spans {
		if len(s.buckets) > 0 && (s != drains || len(s.pages) == 0) {
			wants = append(wants, want{s, s.buckets, s.read})
		}
	}
	return wants
}

// reading reads the next page of every span.
func (l *loop) reading(now time.Time) op {
	wants := l.wants()
	if len(wants) == 0 {
		l.nextRead = now.Add(min(busyPoll, l.cfg.Poll))
		return nil
	}
	limit := max(1, min(l.room(), 4*l.cfg.Batch)/len(wants))
	woken, idle := l.woken, now.After(l.busyUntil) && !l.readEnd.IsZero()
	l.woken = false
	l.nextRead = now.Add(time.Hour) // apply says when; a wake meanwhile says sooner
	return func(ctx context.Context, s *session) (func(), error) {
		if idle && !woken {
			if same, err := s.unchanged(ctx, wants); err != nil || same {
				return func() {
					l.readEnd = time.Now()
					l.paceReads(0, woken, idle)
				}, err
			}
		}
		failpoint.Hit("outbox.read.before")
		f, err := s.read(ctx, wants, limit)
		failpoint.Hit("outbox.read.after")
		took := time.Since(now)
		return func() {
			l.lastRead, l.readEnd = took, time.Now()
			n := l.read(wants, f, woken)
			l.paceReads(n, woken, idle)
		}, err
	}
}

// read takes in what was read, and returns how many events that is.
func (l *loop) read(wants []want, f found, woken bool) (n int) {
	l.lastID = f.last
	var level []*span // those at the same snapshot now
	for i, w := range wants {
		s := w.span
		s.read = f.to[i]
		n += len(f.items[i])
		p := &page{end: s.read}
		for j := range f.items[i] {
			it := &f.items[i][j]
			if l.skip[it.event.Sequence] {
				continue
			}
			it.page, it.eager = p, woken && l.cfg.Optimistic.Enabled
			p.left++
			l.outstanding++
			l.bytes += len(it.event.Payload)
			if h := l.held(it); h != nil {
				h.waiting = append(h.waiting, it)
				l.holdsAt = time.Now()
				continue
			}
			l.lane(it.bucket).put(it)
		}
		switch k := len(s.pages); {
		case len(f.items[i]) > 0 || k > 0 && s.pages[k-1].mark():
			s.compact()
			s.pages = append(s.pages, p)
		case k > 0:
			s.pages[k-1].end = p.end // nothing of ours lies between
		}
		if s.complete() && s.read.prev == f.cur {
			level = append(level, s)
		}
	}
	if len(level) > 1 {
		l.join(level)
	}
	return n
}

// join puts spans that have come equally far together.
func (l *loop) join(level []*span) {
	into := level[0]
	for _, s := range level[1:] {
		into.buckets = append(slices.Clip(into.buckets), s.buckets...)
		into.pages = append(into.pages, &page{end: into.read, absorb: s})
		l.spans = slices.DeleteFunc(l.spans, func(x *span) bool { return x == s })
		l.old = append(l.old, s)
	}
}

// paceReads says when to read again.
func (l *loop) paceReads(n int, woken, idle bool) {
	now := time.Now()
	if n > 0 {
		l.busyUntil = now.Add(busyFor)
		if idle && !woken {
			l.missed()
		}
	}
	next := now.Add(l.poll(now))
	switch {
	case slices.ContainsFunc(l.spans, func(s *span) bool { return !s.complete() }):
		next = now
	case now.Before(l.busyUntil):
		next = now.Add(min(busyPoll, l.cfg.Poll))
	}
	if l.woken { // while it was read
		next = l.rested()
	}
	l.nextRead = next
}

// poll is how long to wait for a wake before a look without one. It is more where writers are known to wake.
func (l *loop) poll(now time.Time) time.Duration {
	if l.r.listening.Load() && now.Sub(l.busyUntil) > quietAfter && now.Sub(l.missedAt) > missedFor {
		return l.cfg.quietPoll
	}
	return l.cfg.Poll
}

// missed counts a poll that found what no wake had told of.
func (l *loop) missed() {
	if !l.cfg.Optimistic.Enabled {
		return
	}
	l.missedAt = time.Now()
	l.r.metrics.missed.Inc()
	if l.r.woken.Load() <= 1 && !l.r.told.Swap(true) { // one is our own, when LISTEN began
		l.r.log.Info("messages are found by the poll only: their writers' pools lack sql.WakeOnCommit, or they don't use sql.InTx")
	}
}
