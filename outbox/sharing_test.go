package outbox

import (
	"testing"
	"time"
)

// sharer is a loop that has all buckets in one span, of which half are to be given away, and one event of it waits.
func sharer() (*loop, *span, *item) {
	l := newLoop(&Relay{cfg: Config{Parallel: 2, Window: 1000, Batch: 100}}, nil)
	s := &span{cursor: 1}
	for b := range int16(buckets) {
		s.buckets = append(s.buckets, b)
	}
	p := &page{left: 1}
	s.pages = []*page{p}
	l.spans = []*span{s}
	l.surplus = buckets / 2
	l.outstanding = 1
	return l, s, &item{event: Event{Sequence: 1, Topic: "down", Key: "k"}, page: p}
}

// TestNothingIsGivenAwayWhileATopicIsAway: buckets that are given away are read no more, and leave when all that was read before is done. While
// that waits for a topic, they would be nobody's.
func TestNothingIsGivenAwayWhileATopicIsAway(t *testing.T) {
	l, s, it := sharer()
	l.lanes[1].aside.queue = []*item{it}
	l.advance()
	l.giveAway()
	if wants := l.wants(); len(wants) != 1 || len(wants[0].buckets) != buckets {
		t.Fatalf("%d buckets are read while an event waits aside, want all", len(s.buckets))
	}
	l.lanes[1].aside.queue = nil // it left
	l.done(it)
	l.advance()
	l.giveAway()
	if len(s.buckets) != buckets/2 || l.surplus != 0 || len(l.marks) != 1 || l.nextMark() == nil {
		t.Errorf("%d buckets are kept when it has left, %d are to be given away, and %d marks can be acted on; want half, 0 and 1", len(s.buckets), l.surplus, len(l.marks))
	}
}

// TestASpanDrainsBeforeBucketsAreGivenAway: reading rests so that buckets can be given away under load too, but not when nothing gets through.
func TestASpanDrainsBeforeBucketsAreGivenAway(t *testing.T) {
	l, _, it := sharer()
	x := l.lanes[0]
	x.put(it)
	if wants := l.wants(); len(wants) != 0 {
		t.Error("a span is read on whose buckets are to be given away")
	}
	now := time.Unix(0, 0)
	batch, _ := x.pick(now, 100)
	x.answered(now, batch, false, false, 0.5)
	if wants := l.wants(); len(wants) != 1 {
		t.Error("a span is not read on while nothing gets through: what would is behind it")
	}
}

// TestWhatAHoldSendsKeepsItsBucket: a bucket is not given away while an event of a key that is held is on its way.
func TestWhatAHoldSendsKeepsItsBucket(t *testing.T) {
	l, s, it := sharer()
	l.holds["k"] = &hold{name: "k", bucket: 255, ids: []int64{2}, sending: 1}
	l.done(it)
	l.advance()
	l.giveAway()
	if len(s.buckets) != buckets/2 || s.buckets[len(s.buckets)-1] != 255 {
		t.Errorf("kept are %v, want half, and 255 with them", s.buckets)
	}
}
