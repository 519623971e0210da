package outbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// shelved is an event that waits aside, of which the body is not here.
func shelved(sequence int64, topic, key string, size int) *item {
	return &item{event: Event{Sequence: sequence, Topic: topic, Key: key}, shelved: true, bare: size}
}

// TestABatchCountsBodiesThatAreNotHere: what waits aside has its body read before it is sent, so that its size counts.
func TestABatchCountsBodiesThatAreNotHere(t *testing.T) {
	for name, keys := range map[string]map[string]*keyFault{"all may go": {}, "a key waits": {"k0": {failures: 1, retryAt: time.Unix(1, 0)}}} {
		t.Run(name, func(t *testing.T) {
			l := newLane().aside
			l.keys = keys
			for i := range 100 {
				l.queue = append(l.queue, shelved(int64(i), "t", fmt.Sprint("k", i%10), batchBytes/8))
			}
			batch, _ := l.pick(time.Unix(0, 0), 500)
			if len(batch) != 8 || len(l.queue) != 92 {
				t.Errorf("%d events are in a batch and %d are left, want 8 and 92: they are an eighth of its bytes each", len(batch), len(l.queue))
			}
			l.inFlight = nil
			l.queue = append([]*item{shelved(100, "t", "large", 2*batchBytes)}, l.queue...)
			if batch, _ := l.pick(time.Unix(0, 0), 500); len(batch) != 1 || len(l.queue) != 92 {
				t.Errorf("%d events are in a batch with one that is too large for any, and %d are left; want it alone", len(batch), len(l.queue))
			}
		})
	}
}

// TestWhatWaitsForATopicIsSeldomRead: while a topic is away, minutes of attempts read few of the bodies that wait for it. A batch for each
// attempt would be 1 MB each, and 4 GB an hour.
func TestWhatWaitsForATopicIsSeldomRead(t *testing.T) {
	l := newLane().aside
	for i := range 2_000 {
		l.queue = append(l.queue, shelved(int64(i), "down", fmt.Sprint(i%500), 10_000))
	}
	l.topics["down"] = &keyFault{failures: 1}
	var read, calls int
	begun := time.Unix(0, 0)
	for now := begun; now.Sub(begun) < 3*time.Minute; {
		batch, next := l.pick(now, 500)
		if len(batch) == 0 {
			now = next
			continue
		}
		calls++
		for _, it := range batch {
			read += it.size()
		}
		now = now.Add(time.Millisecond)
		l.answered(now, batch, false, true, 0.5)
	}
	if len(l.queue) != 2_000 || calls < 180/2 {
		t.Errorf("%d events wait after %d calls, want all of 2000 and a call a second", len(l.queue), calls)
	}
	if most := calls * probeBytes; read > most {
		t.Errorf("%d MB were read, want at most %d", read>>20, most>>20)
	}
	t.Logf("%d MB in %d calls", read>>20, calls)
}

// TestNothingAsideWaitsForATopicThatIsAway: keys of a topic that is there, and which came aside by mishap, leave soon, in order, however many keys of a
// topic that is away stand before them.
func TestNothingAsideWaitsForATopicThatIsAway(t *testing.T) {
	for _, size := range []int{100, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			l := newLane().aside
			var n int64
			for i := range 10_000 {
				n++
				l.queue = append(l.queue, shelved(n, "down", fmt.Sprint(i), size))
			}
			for i := range 1000 { // what is well of a key waits for what is not
				n++
				l.queue = append(l.queue, shelved(n, []string{"down", "up"}[i%2], fmt.Sprint("mixed", i/2), size))
			}
			const well = 300
			for i := range well {
				n++
				l.queue = append(l.queue, shelved(n, "up", fmt.Sprint("up", i%100), size))
			}
			l.topics["down"] = &keyFault{failures: 1}
			last := map[string]int64{}
			arrived := 0
			now := time.Unix(0, 0)
			for calls, more := 0, 0; arrived < well || more < 200; {
				batch, next := l.pick(now, 500)
				if len(batch) == 0 {
					now = next
					continue
				}
				if arrived == well {
					more++ // for what may come that should not
				}
				if calls++; calls > 600 {
					t.Fatalf("%d of %d events arrived in %v", arrived, well, now.Sub(time.Unix(0, 0)))
				}
				var failed []*item
				stopped := map[string]bool{}
				for _, it := range batch {
					if it.event.Topic == "down" || stopped[it.event.Key] {
						stopped[it.event.Key] = true
						failed = append(failed, it)
						continue
					}
					if strings.HasPrefix(it.event.Key, "mixed") {
						t.Fatalf("%s: an event overtakes one that waits for its topic", it.event.Key)
					}
					if it.event.Sequence < last[it.event.Key] {
						t.Fatalf("key %s: %d came after %d", it.event.Key, it.event.Sequence, last[it.event.Key])
					}
					last[it.event.Key] = it.event.Sequence
					arrived++
				}
				now = now.Add(time.Millisecond)
				l.answered(now, failed, len(failed) < len(batch), true, 0.5)
			}
			if len(l.queue) != 11_000 {
				t.Errorf("%d events wait, want 11000", len(l.queue))
			}
			t.Logf("after %v", now.Sub(time.Unix(0, 0)))
		})
	}
}

// queued is an event in a queue.
func queued(sequence int64, topic, key string) *item {
	return &item{event: Event{Sequence: sequence, Topic: topic, Key: key}}
}

// TestATopicThatHangsHoldsUpFewCalls: with a key an event, none of a topic that hangs is known to fail. The topic is, and what is for others
// goes without it.
func TestATopicThatHangsHoldsUpFewCalls(t *testing.T) {
	l := newLane()
	const each = 6000
	for i := range int64(each) {
		l.put(queued(2*i, "up", fmt.Sprint("up", i)))
		l.put(queued(2*i+1, "down", fmt.Sprint("down", i)))
	}
	now := time.Unix(0, 0)
	var hung, arrived int
	for range 1000 {
		for _, x := range []*lane{l, l.aside} {
			batch, _ := x.pick(now, 100)
			if len(batch) == 0 {
				continue
			}
			failed := slices.DeleteFunc(slices.Clone(batch), func(it *item) bool { return it.event.Topic == "up" })
			arrived += len(batch) - len(failed)
			if x == l && len(failed) > 0 {
				hung++
			}
			x.answered(now, failed, len(failed) < len(batch), true, 0.5)
		}
		now = now.Add(time.Second)
	}
	if arrived != each || hung > 10 {
		t.Errorf("%d events arrived, of %d, and %d calls that were to bring them hung, want 10 at most", arrived, each, hung)
	}
	delete(l.aside.topics, "down") // it is back
	for len(l.aside.queue) > 0 {
		now = now.Add(time.Minute)
		l.aside.pick(now, 100)
		l.aside.answered(now, nil, true, true, 0.5)
	}
	if len(l.away) > 0 {
		t.Errorf("%d keys are away, want none: nothing of them is aside", len(l.away))
	}
}

// TestAKeyGoesAsideAsAWhole: an event that goes aside for its topic takes what follows it of its key along, and stays behind what precedes it.
func TestAKeyGoesAsideAsAWhole(t *testing.T) {
	for name, test := range map[string]struct {
		fault keyFault
		want  string // what stays
	}{
		"the topic is away":         {keyFault{failures: 2}, "[1 2 3 6]"},
		"it failed but once":        {keyFault{failures: 1}, "[1 2 3 4 5 6]"},
		"it works for other events": {keyFault{failures: 9, partly: true}, "[1 2 3 4 5 6]"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLane()
			l.aside.topics["down"] = &test.fault
			for _, it := range []*item{queued(1, "up", "a"), queued(2, "down", "a"), queued(3, "up", "a"), queued(4, "down", "b"), queued(5, "up", "b"), queued(6, "up", "c")} {
				l.put(it)
			}
			batch, _ := l.pick(time.Unix(0, 0), 100)
			var got []int64
			for _, it := range batch {
				got = append(got, it.event.Sequence)
			}
			if fmt.Sprint(got) != test.want || len(batch)+len(l.aside.queue) != 6 {
				t.Errorf("sent are %v, want %s, and the rest aside: there are %d", got, test.want, len(l.aside.queue))
			}
			l.put(queued(7, "up", "b"))
			if aside := len(l.queue) == 0; aside != l.away["b"] {
				t.Error("an event of a key is not where the key is")
			}
			l.answered(time.Unix(0, 0), batch[len(batch)-1:], true, true, 0.5)
		})
	}
}

// TestATopicThatWorksForOthersIsNotAway: of keys that fail alone, nothing gets through aside, whatever their topic does.
func TestATopicThatWorksForOthersIsNotAway(t *testing.T) {
	l := newLane()
	l.aside.topics["t"] = &keyFault{failures: 5}
	now := time.Unix(0, 0)
	for _, works := range []bool{true, false} {
		batch := []*item{queued(1, "t", "a"), queued(2, "t", "b")}
		l.inFlight = batch
		failed := batch
		if works {
			failed = batch[:1]
		}
		l.answered(now, failed, works, true, 0.5)
		if l.aside.topics["t"].partly != works {
			t.Errorf("a topic counts as one that works for some: %v, want %v", !works, works)
		}
	}
}

// TestALaneThatWaitsIsNotSearched: while all that is queued waits, asking for it costs nothing, until something changes.
func TestALaneThatWaitsIsNotSearched(t *testing.T) {
	l := newLane()
	x := l.aside
	now := time.Unix(0, 0)
	for i := range 1000 {
		x.queue = append(x.queue, queued(int64(i), "down", fmt.Sprint(i)))
	}
	x.topics["down"] = &keyFault{failures: 1, retryAt: now.Add(time.Minute)}
	ask := func() {
		if batch, next := x.pick(now, 100); len(batch) > 0 || !next.Equal(now.Add(time.Minute)) {
			t.Fatalf("%d events go, and others at %v, want none before a minute", len(batch), next)
		}
	}
	ask()
	if n := testing.AllocsPerRun(10, ask); n > 0 {
		t.Errorf("asking in vain takes %v allocations", n)
	}
	l.away["up"] = true
	l.put(queued(1000, "up", "up"))
	batch, _ := x.pick(now, 100)
	if len(batch) != 1 {
		t.Fatalf("%d events go when another came, want that one", len(batch))
	}
	x.answered(now, nil, true, true, 0.5)
	ask()
	now = now.Add(time.Minute)
	if batch, _ := x.pick(now, 100); len(batch) == 0 {
		t.Error("nothing goes when the time has come")
	}
}
