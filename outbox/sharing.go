package outbox

import (
	"context"
	"maps"
	"slices"
	"time"
)

// own publishes which buckets this relay sees to.
func (l *loop) own() {
	var owned [buckets]bool
	for _, s := range l.spans {
		for _, b := range s.buckets {
			owned[b] = true
		}
	}
	l.r.owned.Store(&owned)
}

// giveAway gives surplus buckets away, of spans of which all that was read is done: what is given is read no more, and would
// otherwise rest until the last event before it has left, which may take as long as a topic is away.
func (l *loop) giveAway() {
	changed := false
	for _, s := range l.spans {
		if l.surplus == 0 {
			break
		}
		if len(s.pages) > 0 {
			continue
		}
		free := slices.DeleteFunc(slices.Clone(s.buckets), l.sends)
		given := free[len(free)-min(l.surplus, len(free)):]
		if len(given) == 0 {
			continue
		}
		s.buckets = slices.DeleteFunc(slices.Clone(s.buckets), func(b int16) bool { return slices.Contains(given, b) })
		for _, b := range given {
			l.leaving[b] = true
		}
		s.pages = append(s.pages, &page{end: s.read, release: given})
		l.surplus -= len(given)
		changed = true
	}
	if changed {
		l.own()
		l.advance()
		l.readBy(time.Now())
	}
}

// sends says that something is under way of a hold of that bucket.
func (l *loop) sends(bucket int16) bool {
	for _, h := range l.holds {
		if h.bucket == bucket && !h.idle() {
			return true
		}
	}
	return false
}

// drains is the span that is read no further for now, so that what was read of it leaves, and buckets can be given away; nil: none. While
// something does not get through, that could last, and all is read on. So a relay that joins then gets its share later.
func (l *loop) drains() *span {
	if l.surplus == 0 || len(l.spans) == 0 || slices.ContainsFunc(l.all, (*lane).fails) {
		return nil
	}
	return slices.MaxFunc(l.spans, func(a, b *span) int { return len(a.buckets) - len(b.buckets) })
}

// nextMark acts on the first mark for which all is ready.
func (l *loop) nextMark() op {
	for _, mark := range l.marks {
		if l.ready(mark) {
			if mark.absorb != nil {
				return l.merging(mark)
			}
			return l.releasing(mark)
		}
	}
	return nil
}

// ready: a mark's turn has come, but it may have to wait for others all the same.
func (l *loop) ready(mark *page) bool {
	if mark.absorb != nil {
		return len(mark.absorb.pages) == 0
	}
	return !slices.ContainsFunc(mark.release, l.sends)
}

// passed takes a mark away.
func (l *loop) passed(mark *page) {
	s := l.markOf[mark]
	delete(l.markOf, mark)
	l.marks = slices.DeleteFunc(l.marks, func(m *page) bool { return m == mark })
	s.pages = s.pages[1:]
	if len(s.buckets) == 0 && len(s.pages) == 0 {
		l.spans = slices.DeleteFunc(l.spans, func(x *span) bool { return x == s })
	}
}

// merging puts a span's buckets under the cursor of the one it was joined to, which must be on record as
// having come as far.
func (l *loop) merging(mark *page) op {
	into, from := l.markOf[mark], mark.absorb
	into.dirty, from.dirty = false, false
	return func(ctx context.Context, s *session) (func(), error) {
		if err := s.save(ctx, []int64{into.cursor}, []position{mark.end}); err != nil {
			return nil, err
		}
		return func() {
			delete(l.known, from.cursor)
			l.old = slices.DeleteFunc(l.old, func(x *span) bool { return x == from })
			l.passed(mark)
		}, s.merge(ctx, from.cursor, into.cursor)
	}
}

// releasing gives buckets away.
func (l *loop) releasing(mark *page) op {
	cursor := l.markOf[mark].cursor
	return func(ctx context.Context, s *session) (func(), error) {
		return func() {
			for _, b := range mark.release {
				l.leaving[b] = false
			}
			maps.DeleteFunc(l.holds, func(_ string, h *hold) bool { return slices.Contains(mark.release, h.bucket) })
			l.passed(mark)
		}, s.release(ctx, cursor, mark.release, mark.end)
	}
}
