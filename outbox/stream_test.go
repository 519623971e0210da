package outbox

import (
	"slices"
	"testing"
)

// TestPagesThatAreDoneAreForgotten: while one event waits, what is read behind it leaves no pages, and the span comes no further than it may.
func TestPagesThatAreDoneAreForgotten(t *testing.T) {
	at := func(n int64) position { return position{prev: "p", last: n} }
	l := newLoop(&Relay{cfg: Config{Parallel: 1, Window: 1000, Batch: 10}}, nil)
	s := &span{buckets: []int16{1}, acked: at(0), read: at(0)}
	l.spans = []*span{s}
	read := func(n int64) *item {
		items := []item{{bucket: 1, event: Event{Sequence: n}}}
		l.read([]want{{span: s}}, found{items: [][]item{items}, to: []position{at(n)}}, false)
		return &items[0]
	}
	first := read(1)
	for n := range int64(100) {
		l.done(read(2 + n))
		l.advance()
	}
	if len(s.pages) > 2 || s.acked != at(0) {
		t.Errorf("%d pages are kept behind an event that waits, and the span came to %v; want 2 at most, and its begin", len(s.pages), s.acked)
	}
	second := read(200)
	mark := &page{end: at(200), release: []int16{1}}
	s.pages = append(s.pages, mark)
	third := read(201)
	l.done(third)
	l.done(first)
	if l.advance(); s.acked != at(101) {
		t.Errorf("the span came to %v when the first has left, want all before the second", s.acked)
	}
	l.done(second)
	if read(202); !slices.Contains(s.pages, mark) {
		t.Error("a mark was forgotten")
	}
	if l.advance(); s.acked != at(200) || !slices.Equal(l.marks, []*page{mark}) {
		t.Errorf("the span came to %v, want the mark: nothing that was read behind it counts before", s.acked)
	}
}
