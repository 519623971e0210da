package outboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// Harness is a broker to test a publisher with.
type Harness struct {
	// Open opens the publisher under test. The suite closes it.
	Open func(t testing.TB) outbox.Publisher
	// Topic makes a topic that no other test uses, ready to be published to, and returns its name.
	Topic func(t testing.TB) string
	// Events are all that the topic has taken since it was made, read back from the broker itself: the same
	// again with each call. Along a key they are in the order of arrival.
	Events func(t testing.TB, topic string) []outbox.Event

	// Unknown is a topic that is not there and that the publisher is to reject. "": not tested.
	Unknown string
	// TooLarge is the size of a payload, in bytes, that the publisher is to reject. 0: not tested.
	TooLarge int
	// Down takes the broker away, abruptly, and Up brings it back with what it had. nil: not tested.
	Down, Up func(t testing.TB)
	// Patience is how long the broker may take to be of use again after Up. 0: 30 s.
	Patience time.Duration
	// Faults is for how long TestPublisher lets faults rage. 0: 2 s.
	Faults time.Duration
}

// TestPublisher holds a publisher to the contract of [outbox.Publisher]. newHarness is called once a test.
func TestPublisher(t *testing.T, newHarness func(t *testing.T) Harness) {
	has := newHarness(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness, outbox.Publisher)
		not  bool // this broker has nothing to test it with
	}{
		{name: "EmptyBatch", run: testEmptyBatch},
		{name: "EventsArriveWhole", run: testEventsArriveWhole},
		{name: "OrderOfKeys", run: testOrderOfKeys},
		{name: "ManyCallsAtOnce", run: testManyCallsAtOnce},
		{name: "TooLargeIsRejected", run: testTooLarge, not: has.TooLarge == 0},
		{name: "UnknownTopicIsRejected", run: testUnknownTopic, not: has.Unknown == ""},
		{name: "EndOfContext", run: testEndOfContext},
		{name: "BrokerGoesAndComes", run: testBrokerGoesAndComes, not: has.Down == nil},
		{name: "Faults", run: func(t *testing.T, h Harness, p outbox.Publisher) { testFaults(t, h, p) }},
	} {
		if test.not {
			t.Logf("%s is not among the tests: the harness has nothing for it", test.name)
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			h := newHarness(t)
			p := h.Open(t)
			defer func() {
				if err := p.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}()
			test.run(t, h, p)
		})
	}
}

var sequence = struct {
	sync.Mutex
	n int64
}{}

// event is one with nothing special about it.
func event(topic, key string, n int) outbox.Event {
	sequence.Lock()
	defer sequence.Unlock()
	sequence.n++
	return outbox.Event{Sequence: sequence.n, ID: uuid.Must(uuid.NewV7()), Topic: topic, Key: key, RoutingKey: "test.happened", Type: "test.happened",
		Payload: fmt.Appendf(nil, `{"n":%d}`, n), Headers: map[string]string{"content-type": "application/json"}, CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// publish fails the test unless there is one answer an event.
func publish(t testing.TB, ctx context.Context, p outbox.Publisher, events ...outbox.Event) []error {
	t.Helper()
	errs := p.Publish(ctx, events)
	if len(errs) != len(events) {
		t.Fatalf("%d answers for %d events", len(errs), len(events))
	}
	return errs
}

func mustPublish(t testing.TB, ctx context.Context, p outbox.Publisher, events ...outbox.Event) {
	t.Helper()
	if err := errors.Join(publish(t, ctx, p, events...)...); err != nil {
		t.Fatalf("not acknowledged: %v", err)
	}
}

func rejected(err error) bool {
	return errors.As(err, new(*outbox.RejectedError))
}

func testEmptyBatch(t *testing.T, h Harness, p outbox.Publisher) {
	publish(t, bounded(t), p)
	topic := h.Topic(t)
	mustPublish(t, bounded(t), p, event(topic, "k", 1))
	if got := h.Events(t, topic); len(got) != 1 {
		t.Errorf("%d events after an empty batch and one event", len(got))
	}
}

func testEventsArriveWhole(t *testing.T, h Harness, p outbox.Publisher) {
	topic := h.Topic(t)
	saga := event(topic, "o-1", 1)
	saga.SagaID, saga.Step = uuid.NewString(), "ship"
	saga.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	saga.Headers = map[string]string{"content-type": "application/json", "tenant": "a", "note": "grüße, 100 %, \"quoted\"", "empty": ""}
	binary := event(topic, "schlüssel/1 ✓", 2)
	binary.Payload, binary.Headers = []byte{0, 1, 0xff, 0xfe, '\n', 0}, map[string]string{}
	empty := event(topic, "k", 3)
	empty.Payload, empty.Type = []byte{}, "nothing.in.it"
	large := event(topic, "l", 4)
	large.Payload = bytes.Repeat([]byte("0123456789abcdef"), 16<<10) // 256 kB
	keyless := event(topic, "", 5)
	again := event(topic, "r", 6)
	again.Replayed = true
	want := []outbox.Event{saga, binary, empty, large, keyless, again}
	mustPublish(t, bounded(t), p, want...)
	got := map[uuid.UUID]outbox.Event{}
	for _, e := range h.Events(t, topic) {
		got[e.ID] = e
	}
	for _, w := range want {
		g, ok := got[w.ID]
		if !ok {
			t.Errorf("event %s of key %q did not arrive under its id", w.Payload[:min(len(w.Payload), 20)], w.Key)
			continue
		}
		compare(t, g, w)
	}
	if len(got) != len(want) {
		t.Errorf("%d events arrived, want %d", len(got), len(want))
	}
}

func compare(t testing.TB, g, w outbox.Event) {
	t.Helper()
	check := func(what string, ok bool, g, w any) {
		t.Helper()
		if !ok {
			t.Errorf("event of key %q: %s is %v, want %v", w, what, g, w)
		}
	}
	check("sequence", g.Sequence == w.Sequence, g.Sequence, w.Sequence)
	check("topic", g.Topic == w.Topic, g.Topic, w.Topic)
	check("key", g.Key == w.Key, g.Key, w.Key)
	check("type", g.Type == w.Type, g.Type, w.Type)
	check("payload", bytes.Equal(g.Payload, w.Payload), len(g.Payload), len(w.Payload))
	check("headers", maps.Equal(g.Headers, w.Headers), g.Headers, w.Headers)
	check("traceparent", g.TraceParent == w.TraceParent, g.TraceParent, w.TraceParent)
	check("saga", g.SagaID == w.SagaID, g.SagaID, w.SagaID)
	check("step", g.Step == w.Step, g.Step, w.Step)
	check("time", g.CreatedAt.Equal(w.CreatedAt), g.CreatedAt, w.CreatedAt)
	check("replayed", g.Replayed == w.Replayed, g.Replayed, w.Replayed)
}

// ordered fails the test unless the first occurrences of events are those of want, key by key.
func ordered(t testing.TB, got []outbox.Event, want map[string][]uuid.UUID) {
	t.Helper()
	first := map[string][]uuid.UUID{}
	seen := map[uuid.UUID]bool{}
	for _, e := range got {
		if !seen[e.ID] {
			seen[e.ID] = true
			first[e.Key] = append(first[e.Key], e.ID)
		}
	}
	for key, ids := range want {
		if len(first[key]) != len(ids) {
			t.Errorf("key %q: %d events arrived, want %d", key, len(first[key]), len(ids))
			continue
		}
		for i := range ids {
			if first[key][i] != ids[i] {
				t.Errorf("key %q: event %d arrived in another's place", key, i)
				break
			}
		}
	}
}

func testOrderOfKeys(t *testing.T, h Harness, p outbox.Publisher) {
	topic := h.Topic(t)
	want := map[string][]uuid.UUID{}
	for call := range 20 {
		var batch []outbox.Event
		for i := range 50 {
			e := event(topic, fmt.Sprintf("key %d", (call+i*i)%7), call*50+i)
			batch = append(batch, e)
			want[e.Key] = append(want[e.Key], e.ID)
		}
		mustPublish(t, bounded(t), p, batch...)
	}
	got := h.Events(t, topic)
	if len(got) != 1000 {
		t.Errorf("%d events arrived, want 1000: nothing failed, so nothing may come twice", len(got))
	}
	ordered(t, got, want)
}

func testManyCallsAtOnce(t *testing.T, h Harness, p outbox.Publisher) {
	topic := h.Topic(t)
	ctx := bounded(t)
	var mu sync.Mutex
	want := map[string][]uuid.UUID{}
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			for call := range 10 {
				var batch []outbox.Event
				for i := range 20 {
					e := event(topic, fmt.Sprintf("caller %d key %d", caller, i%3), call*20+i)
					batch = append(batch, e)
					mu.Lock()
					want[e.Key] = append(want[e.Key], e.ID)
					mu.Unlock()
				}
				if err := errors.Join(p.Publish(ctx, batch)...); err != nil {
					t.Errorf("caller %d: %v", caller, err)
					return
				}
			}
		})
	}
	wg.Wait()
	ordered(t, h.Events(t, topic), want)
}

// one rejected event among others: what is before it and beside it goes, what is behind it does not.
func oneRejected(t *testing.T, h Harness, p outbox.Publisher, topic string, bad outbox.Event) {
	before, beside, behind := event(topic, bad.Key, 1), event(topic, "another "+bad.Key, 3), event(topic, bad.Key, 4)
	errs := publish(t, bounded(t), p, before, bad, beside, behind)
	if !rejected(errs[1]) {
		t.Errorf("the bad event's answer is %v, want a RejectedError", errs[1])
	}
	if errs[0] != nil || errs[2] != nil {
		t.Errorf("the good ones' answers are %v and %v", errs[0], errs[2])
	}
	if errs[3] == nil || rejected(errs[3]) {
		t.Errorf("the answer of the event behind the bad one is %v, want an error that does not blame it", errs[3])
	}
	ordered(t, h.Events(t, topic), map[string][]uuid.UUID{before.Key: {before.ID}, beside.Key: {beside.ID}})
	// The key is not held for ever: that is the caller's to decide.
	mustPublish(t, bounded(t), p, behind)
	ordered(t, h.Events(t, topic), map[string][]uuid.UUID{before.Key: {before.ID, behind.ID}, beside.Key: {beside.ID}})
}

func testTooLarge(t *testing.T, h Harness, p outbox.Publisher) {
	topic := h.Topic(t)
	bad := event(topic, "k", 2)
	bad.Payload = []byte(strings.Repeat("x", h.TooLarge))
	oneRejected(t, h, p, topic, bad)
}

func testUnknownTopic(t *testing.T, h Harness, p outbox.Publisher) {
	oneRejected(t, h, p, h.Topic(t), event(h.Unknown, "k", 2))
}

func testEndOfContext(t *testing.T, h Harness, p outbox.Publisher) {
	topic := h.Topic(t)
	mustPublish(t, bounded(t), p, event(topic, "k", 0))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	answers := make(chan []error, 1)
	e := event(topic, "k", 1)
	go func() { answers <- p.Publish(ended, []outbox.Event{e}) }()
	select {
	case errs := <-answers:
		if len(errs) != 1 || rejected(errs[0]) {
			t.Errorf("with an ended context: %v, want one error that does not blame the event", errs)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Publish does not return when its context has ended")
	}
	// It may have arrived or not; sent again, and with what follows, it is in order.
	next := event(topic, "k", 2)
	mustPublish(t, bounded(t), p, e, next)
	got := h.Events(t, topic)
	ordered(t, got[1:], map[string][]uuid.UUID{"k": {e.ID, next.ID}})
}

func testBrokerGoesAndComes(t *testing.T, h Harness, p outbox.Publisher) {
	topic := h.Topic(t)
	var ids []uuid.UUID
	first := event(topic, "k", 0)
	ids = append(ids, first.ID)
	mustPublish(t, bounded(t), p, first)
	h.Down(t)
	e := event(topic, "k", 1)
	ids = append(ids, e.ID)
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	if errs := publish(t, short, p, e); errs[0] == nil || rejected(errs[0]) {
		t.Errorf("without a broker: %v, want an error that does not blame the event", errs[0])
	}
	cancel()
	h.Up(t)
	patience := h.Patience
	if patience == 0 {
		patience = 30 * time.Second
	}
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := publish(t, ctx, p, e)[0]
		cancel()
		if err == nil {
			break
		}
		if rejected(err) {
			t.Fatalf("after an outage: %v, want an error that does not blame the event", err)
		}
		if time.Since(begun) > patience {
			t.Fatalf("the broker is back for %v and the publisher says %v", patience, err)
		}
	}
	last := event(topic, "k", 2)
	mustPublish(t, bounded(t), p, last)
	ordered(t, h.Events(t, topic), map[string][]uuid.UUID{"k": append(ids, last.ID)})
}

// testFaults sends events through faults as the relay does: of each key, from the first that was not
// acknowledged on, again and again.
func testFaults(t *testing.T, h Harness, p outbox.Publisher) {
	lasting := h.Faults
	if lasting == 0 {
		lasting = 2 * time.Second
	}
	topic := h.Topic(t)
	faulty := &Faulty{Publisher: p, Next: Storm(3)}
	var mu sync.Mutex
	want := map[string][]uuid.UUID{}
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), lasting+time.Minute)
	defer cancel()
	end := time.Now().Add(lasting)
	for caller := range 4 {
		wg.Go(func() {
			for n := 0; time.Now().Before(end) && n < 1<<15; {
				var batch []outbox.Event
				for range 25 {
					e := event(topic, fmt.Sprintf("caller %d key %d", caller, n%5), n)
					n++
					batch = append(batch, e)
					mu.Lock()
					want[e.Key] = append(want[e.Key], e.ID)
					mu.Unlock()
				}
				for len(batch) > 0 {
					var left []outbox.Event
					held := map[string]bool{}
					for i, err := range faulty.Publish(ctx, batch) {
						if err == nil && held[batch[i].Key] {
							t.Errorf("key %q: an event was acknowledged after one that was not", batch[i].Key)
						}
						if err != nil {
							held[batch[i].Key] = true
							left = append(left, batch[i])
						}
						if rejected(err) {
							t.Errorf("rejected: %v", err)
						}
					}
					if batch = left; ctx.Err() != nil {
						t.Errorf("caller %d: still not acknowledged: %d events", caller, len(batch))
						return
					}
				}
			}
		})
	}
	wg.Wait()
	ordered(t, h.Events(t, topic), want)
}
