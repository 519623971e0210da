package inbox

import (
	"testing"
	"time"
)

// TestFreshMessagesHaveTheirTurn: held messages that are due at every look do not keep the others from being tried, and are tried at once
// where there are no others.
func TestFreshMessagesHaveTheirTurn(t *testing.T) {
	t.Parallel()
	l := newLane(&Consumer{cfg: Config{Batch: 2}})
	fail := func(key string) {
		it := &item{delivery: Delivery{Message: Message{Key: key}}}
		it.m = &it.delivery.Message
		l.holds[key] = &hold{at: time.Time{}, queue: []*item{it}}
	}
	fail("slow 1")
	fail("slow 2")
	for range 3 {
		it := &item{delivery: Delivery{Message: Message{Key: "fresh"}}}
		it.m = &it.delivery.Message
		l.put(it)
	}
	for i, want := range []struct {
		fresh bool
		n     int
	}{{false, 1}, {true, 2}, {false, 1}, {true, 1}, {false, 1}, {false, 1}} {
		batch, _ := l.next()
		if len(batch) != want.n || (batch[0].m.Key == "fresh") != want.fresh {
			t.Fatalf("look %d: %d messages, the first of key %q, want %+v", i, len(batch), batch[0].m.Key, want)
		}
		if !want.fresh {
			fail(batch[0].m.Key)
		}
	}
}
