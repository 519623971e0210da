package inboxtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// Harness is a broker to test a source with: a topic and a consumer group that no other test uses.
type Harness struct {
	// Topic is its name: Message.Topic of what is delivered. "": any will do.
	Topic string
	// Open opens a source that is one more member of the group. A new group begins with the oldest message.
	Open func(t testing.TB) inbox.Source
	// Send puts messages into the topic, in this order, in the adapter's own format, and returns when the
	// broker has them.
	Send func(t testing.TB, messages ...inbox.Message)

	// Kill takes away a source's connections as the death of its process would; Close is called later
	// nevertheless, and may fail. nil: not tested.
	Kill func(t testing.TB, s inbox.Source)
	// Cut breaks all connections to the broker, which stays up: sources connect again. nil: not tested.
	Cut func(t testing.TB)
	// Spoil puts something into the topic that no message can be made of. nil: not tested.
	Spoil func(t testing.TB, payload []byte)
	// Patience is how long what was not acked may take to be delivered again. 0: 30 s.
	Patience time.Duration
	// LosesOrder: messages that are sent in order may be delivered in another, to a single member, without faults.
	LosesOrder bool
}

// TestSource holds a source to the contract of [inbox.Source]. newHarness is called once a test.
func TestSource(t *testing.T, newHarness func(t *testing.T) Harness) {
	has := newHarness(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
		not  bool // this source has nothing to test it with
	}{
		{name: "MessagesArriveWhole", run: testMessagesArriveWhole},
		{name: "OrderOfKeys", run: testOrderOfKeys, not: has.LosesOrder},
		{name: "FetchWaits", run: testFetchWaits},
		{name: "FetchBounds", run: testFetchBounds},
		{name: "AckedIsDone", run: testAckedIsDone},
		{name: "NotAckedComesAgain", run: testNotAckedComesAgain},
		{name: "AckInAnyOrder", run: testAckInAnyOrder},
		{name: "AckWhileFetchWaits", run: testAckWhileFetchWaits},
		{name: "ReleasedComesAgain", run: testReleasedComesAgain},
		{name: "MembersComeAndGo", run: testMembersComeAndGo},
		{name: "ThreeMembers", run: testThreeMembers},
		{name: "KilledMember", run: testKilledMember, not: has.Kill == nil},
		{name: "ConnectionsAreCut", run: testConnectionsAreCut, not: has.Cut == nil},
		{name: "SpoiltMessage", run: testSpoiltMessage, not: has.Spoil == nil},
		{name: "Lag", run: testLag, not: !lags(t, has)},
	} {
		if test.not {
			t.Logf("%s is not among the tests: the harness has nothing for it", test.name)
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			h := newHarness(t)
			if h.Patience == 0 {
				h.Patience = 30 * time.Second
			}
			test.run(t, h)
		})
	}
}

// FetchOne fetches the next delivery of a source, for tests beside the suite. The test ends if none comes in 30 s.
func FetchOne(t testing.TB, s inbox.Source) inbox.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		some, err := s.Fetch(ctx, 1)
		if len(some) == 1 {
			return some[0]
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Close closes a source, whose Close must not fail.
func Close(t testing.TB, s inbox.Source) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// lags says whether the source knows how far behind it is.
func lags(t *testing.T, h Harness) bool {
	s := h.Open(t)
	defer Close(t, s)
	_, ok := s.(inbox.Lagger)
	return ok
}

// member is a source, and what was fetched from it.
type member struct {
	inbox.Source
	t      testing.TB
	h      Harness
	closed bool
}

func open(t testing.TB, h Harness) *member {
	t.Helper()
	m := unowned(t, h)
	t.Cleanup(func() {
		if !m.closed {
			m.leave()
		}
	})
	return m
}

// unowned is a member that the test itself closes.
func unowned(t testing.TB, h Harness) *member {
	t.Helper()
	return &member{Source: h.Open(t), t: t, h: h}
}

func (m *member) leave() {
	m.t.Helper()
	m.closed = true
	Close(m.t, m.Source)
}

// fetch fetches until enough is true of all that it has got, passing over errors, as a consumer does.
func (m *member) fetch(enough func(got []inbox.Delivery) bool) (got []inbox.Delivery) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.h.Patience)
	defer cancel()
	for !enough(got) {
		some, err := m.Fetch(ctx, 100)
		if ctx.Err() != nil && len(some) == 0 {
			m.t.Fatalf("after %v there were only %d deliveries: %v", m.h.Patience, len(got), ids(got))
		}
		if err != nil {
			m.t.Logf("fetch: %v", err)
			time.Sleep(20 * time.Millisecond)
		}
		got = append(got, some...)
	}
	return got
}

// all fetches until each of these messages has come.
func (m *member) all(sent []inbox.Message) []inbox.Delivery {
	m.t.Helper()
	return m.fetch(func(got []inbox.Delivery) bool { return len(missing(sent, got)) == 0 })
}

func (m *member) ack(deliveries ...inbox.Delivery) {
	m.t.Helper()
	if err := m.Ack(m.t.Context(), deliveries); err != nil {
		m.t.Errorf("ack: %v", err)
	}
}

func missing(sent []inbox.Message, got []inbox.Delivery) (ids []string) {
	there := map[string]bool{}
	for _, d := range got {
		there[d.Message.ID] = true
	}
	for _, m := range sent {
		if !there[m.ID] {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func ids(ds []inbox.Delivery) (ids []string) {
	for _, d := range ds {
		ids = append(ids, d.Message.ID)
	}
	return ids
}

// letters makes n messages with keys k0, k1, ...
func letters(n, keys int) []inbox.Message {
	made := make([]inbox.Message, n)
	for i := range made {
		made[i] = inbox.Message{
			ID: uuid.Must(uuid.NewV7()).String(), Key: fmt.Sprintf("k%d", i%keys), Type: "test.letter",
			Payload: fmt.Appendf(nil, `{"n": %d}`, i), Headers: map[string]string{"content-type": "application/json"},
		}
	}
	return made
}

func testMessagesArriveWhole(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(3, 3)
	sent[0].TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	sent[0].Headers["tenant"] = "Zoë"
	sent[1].Payload = []byte{0, 1, 2, 254, 255, '\n'}
	sent[2].Payload = nil
	h.Send(t, sent...)
	got := map[string]inbox.Message{}
	for _, d := range m.all(sent) {
		if d.Err != nil {
			t.Errorf("message %s: %v", d.Message.ID, d.Err)
		}
		got[d.Message.ID] = d.Message
		m.ack(d)
	}
	for i, want := range sent {
		is := got[want.ID]
		if is.Key != want.Key || is.Type != want.Type || is.TraceParent != want.TraceParent || h.Topic != "" && is.Topic != h.Topic {
			t.Errorf("message %d\ngot  %+v\nwant %+v", i, is, want)
		}
		if string(is.Payload) != string(want.Payload) {
			t.Errorf("message %d: payload %q, want %q", i, is.Payload, want.Payload)
		}
		for name, value := range want.Headers {
			if is.Headers[name] != value {
				t.Errorf("message %d: header %s is %q, want %q; all: %v", i, name, is.Headers[name], value, is.Headers)
			}
		}
	}
}

func testOrderOfKeys(t *testing.T, h Harness) {
	m := open(t, h)
	const keys = 5
	sent := letters(200, keys)
	h.Send(t, sent[:120]...)
	got := m.all(sent[:120])
	h.Send(t, sent[120:]...)
	got = append(got, m.all(sent[120:])...)
	for k := range keys {
		key := fmt.Sprintf("k%d", k)
		var want, is []string
		for _, s := range sent {
			if s.Key == key {
				want = append(want, s.ID)
			}
		}
		for _, d := range got {
			if d.Message.Key == key && !slices.Contains(is, d.Message.ID) {
				is = append(is, d.Message.ID)
			}
		}
		if !slices.Equal(is, want) {
			t.Errorf("key %s\ngot  %v\nwant %v", key, is, want)
		}
	}
	m.ack(got...)
}

func testFetchWaits(t *testing.T, h Harness) {
	m := open(t, h)
	first := letters(1, 1)
	h.Send(t, first...)
	m.ack(m.all(first)...) // the group is made, and has nothing more

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		if some, _ := m.Fetch(ctx, 10); len(missing(first, some)) == 0 {
			t.Fatalf("an acked message comes again: %v", ids(some))
		} else if len(some) > 0 {
			t.Fatalf("out of nothing: %v", ids(some))
		}
	}
	begun := time.Now()
	if _, err := m.Fetch(ctx, 10); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 5*time.Second {
		t.Errorf("with a context that has ended: %v after %v", err, time.Since(begun))
	}

	// A Fetch that was given up has lost nothing.
	second := letters(10, 3)
	h.Send(t, second...)
	m.ack(m.all(second)...)
}

func testFetchBounds(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(25, 4)
	h.Send(t, sent...)
	var got []inbox.Delivery
	ctx, cancel := context.WithTimeout(t.Context(), h.Patience)
	defer cancel()
	for len(missing(sent, got)) > 0 {
		some, err := m.Fetch(ctx, 3)
		if len(some) > 3 {
			t.Fatalf("asked for 3 at most, and got %d", len(some))
		}
		if err == nil && len(some) == 0 {
			t.Fatal("Fetch returned nothing, and no error")
		}
		if ctx.Err() != nil {
			t.Fatalf("%v after %d of 25 messages", err, len(got))
		}
		got = append(got, some...)
		m.ack(some...)
	}
}

func testAckedIsDone(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(20, 4)
	h.Send(t, sent...)
	m.ack(m.all(sent)...)
	m.leave()

	m = open(t, h)
	more := letters(1, 1)
	h.Send(t, more...)
	for _, d := range m.all(more) {
		if len(missing([]inbox.Message{d.Message}, []inbox.Delivery{{Message: more[0]}})) > 0 {
			t.Errorf("the acked message %s came again", d.Message.ID)
		}
		m.ack(d)
	}
}

func testNotAckedComesAgain(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(20, 4)
	h.Send(t, sent...)
	m.all(sent)
	m.leave()
	m = open(t, h)
	m.ack(m.all(sent)...)
}

// testAckInAnyOrder: whatever the broker can remember, a message that was not acked is not lost because a
// later one was.
func testAckInAnyOrder(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(20, 2)
	h.Send(t, sent...)
	kept := map[string]bool{sent[3].ID: true, sent[8].ID: true}
	for _, d := range slices.Backward(m.all(sent)) {
		if !kept[d.Message.ID] {
			m.ack(d)
		}
	}
	m.leave()
	m = open(t, h)
	m.ack(m.all([]inbox.Message{sent[3], sent[8]})...)
}

func testAckWhileFetchWaits(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(40, 4)
	h.Send(t, sent...)
	got := m.all(sent)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_, _ = m.Fetch(ctx, 10)
		}
	})
	var acks sync.WaitGroup
	for part := range slices.Chunk(got, 10) {
		acks.Go(func() {
			if err := m.Ack(ctx, part); err != nil {
				t.Errorf("ack: %v", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { acks.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(h.Patience):
		t.Error("Ack waits for Fetch, which waits for messages")
	}
	cancel()
	wg.Wait()
	acks.Wait()
}

func testReleasedComesAgain(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(20, 4)
	h.Send(t, sent...)
	var back []inbox.Delivery
	for i, d := range m.all(sent) {
		if i%2 == 0 {
			m.ack(d)
		} else {
			back = append(back, d)
		}
	}
	if err := m.Release(t.Context(), back); err != nil {
		t.Errorf("release: %v", err)
	}
	m.leave()
	m = open(t, h)
	again := make([]inbox.Message, len(back))
	for i, d := range back {
		again[i] = d.Message
	}
	m.ack(m.all(again)...)
}

// crowd is several members that fetch and ack at once.
type crowd struct {
	t    *testing.T
	h    Harness
	mu   sync.Mutex
	acks map[string]int
	wg   sync.WaitGroup
}

// join adds a member until the returned function is called. It acks what is not revoked by then.
func (c *crowd) join() (leave func()) {
	m := unowned(c.t, c.h)
	ctx, cancel := context.WithCancel(c.t.Context())
	c.wg.Go(func() {
		defer m.leave()
		for ctx.Err() == nil {
			some, err := m.Fetch(ctx, 7)
			if err != nil {
				if ctx.Err() == nil {
					c.t.Logf("fetch: %v", err)
					time.Sleep(20 * time.Millisecond)
				}
				continue
			}
			if err := m.Ack(ctx, some); err != nil {
				c.t.Logf("ack: %v", err)
				continue
			}
			c.mu.Lock()
			for _, d := range some {
				c.acks[d.Message.ID]++
			}
			c.mu.Unlock()
		}
	})
	return func() { cancel() }
}

func (c *crowd) waitFor(sent []inbox.Message) {
	c.t.Helper()
	for deadline := time.Now().Add(c.h.Patience); ; time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		n := 0
		for _, m := range sent {
			if c.acks[m.ID] > 0 {
				n++
			}
		}
		c.mu.Unlock()
		if n == len(sent) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d of %d messages were acked", n, len(sent))
		}
	}
}

func members(t *testing.T, h Harness, n int) {
	c := &crowd{t: t, h: h, acks: map[string]int{}}
	var leave []func()
	defer c.wg.Wait()
	defer func() {
		for _, f := range leave {
			f()
		}
	}()
	all := letters(100*(n+2), 20)
	sent := 0
	send := func() {
		h.Send(t, all[sent:sent+100]...)
		sent += 100
	}
	for range n { // they join while messages come
		leave = append(leave, c.join())
		send()
	}
	c.waitFor(all[:sent])
	leave[0]()
	leave = leave[1:]
	send()
	c.waitFor(all[:sent])
	leave = append(leave, c.join())
	send()
	c.waitFor(all)
	twice := 0
	for n := range maps.Values(c.acks) {
		twice += n - 1
	}
	t.Logf("%d members: %d of %d messages were acked more than once", n, twice, len(all))
}

func testMembersComeAndGo(t *testing.T, h Harness) { members(t, h, 2) }
func testThreeMembers(t *testing.T, h Harness)     { members(t, h, 3) }

func testKilledMember(t *testing.T, h Harness) {
	m := unowned(t, h)
	sent := letters(20, 4)
	h.Send(t, sent...)
	m.ack(m.all(sent)[:5]...)
	h.Kill(t, m.Source)
	t.Cleanup(func() { _ = m.Close() })
	m2 := open(t, h)
	done := map[string]bool{}
	for _, s := range sent {
		done[s.ID] = true
	}
	// What was acked may come again if the ack had not arrived; nothing that was not acked is lost.
	got := m2.fetch(func(got []inbox.Delivery) bool { return len(missing(sent, got)) <= 5 })
	for _, d := range got {
		if !done[d.Message.ID] {
			t.Errorf("an unknown message %s", d.Message.ID)
		}
	}
	m2.ack(got...)
}

func testConnectionsAreCut(t *testing.T, h Harness) {
	m := open(t, h)
	sent := letters(60, 4)
	h.Send(t, sent[:20]...)
	old := m.all(sent[:20])
	h.Cut(t)
	_ = m.Ack(t.Context(), old[:10]) // it may fail, or be passed over: not acked for sure
	h.Send(t, sent[20:40]...)
	got := m.all(sent[10:40])
	h.Cut(t)
	h.Send(t, sent[40:]...)
	got = append(got, m.all(sent[40:])...)
	_ = m.Ack(t.Context(), got)
}

func testSpoiltMessage(t *testing.T, h Harness) {
	m := open(t, h)
	payload := []byte("\x00not a message")
	h.Spoil(t, payload)
	sent := letters(3, 1)
	h.Send(t, sent...)
	spoilt := func(got []inbox.Delivery) (n int) {
		for _, d := range got {
			if d.Err != nil && string(d.Message.Payload) == string(payload) && d.Message.ID != "" {
				n++
			}
		}
		return n
	}
	got := m.fetch(func(got []inbox.Delivery) bool { return spoilt(got) > 0 && len(missing(sent, got)) == 0 })
	m.ack(got...)
}

func testLag(t *testing.T, h Harness) {
	m := open(t, h)
	lagger := m.Source.(inbox.Lagger)
	sent := letters(30, 4)
	h.Send(t, sent[:1]...)
	m.ack(m.all(sent[:1])...)
	h.Send(t, sent[1:]...)
	var lag int64
	var err error
	for deadline := time.Now().Add(h.Patience); lag == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		lag, err = lagger.Lag(t.Context())
	}
	if err != nil || lag < 1 || lag > 29 { // a source may have fetched ahead
		t.Errorf("with 29 messages to come the lag is %d, %v", lag, err)
	}
	m.ack(m.all(sent[1:])...)
	for deadline := time.Now().Add(h.Patience); lag != 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		lag, err = lagger.Lag(t.Context())
	}
	if err != nil || lag != 0 {
		t.Errorf("with nothing to come the lag is %d, %v", lag, err)
	}
}
