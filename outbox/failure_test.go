package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// quick makes rejected events give up soon.
var quick = outbox.Retry{MaxAttempts: 3, Initial: 5 * time.Millisecond, Max: 20 * time.Millisecond}

// poison rejects the payload "bad" until it is cured.
type poison struct{ cured atomic.Bool }

func (p *poison) reject(e outbox.Event) error {
	if string(e.Payload) == "bad" && !p.cured.Load() {
		return errors.New("I don't like it")
	}
	return nil
}

func bad(key string) outbox.Message {
	m := message(key, 0)
	m.Payload = []byte("bad")
	return m
}

func ofKey(events []outbox.Event, key string) []string {
	return payloads(slices.DeleteFunc(slices.Clone(events), func(e outbox.Event) bool { return e.Key != key }))
}

// TestARejectedEventHoldsItsKeyAlone: the key waits, in order, while all others of its bucket go on.
func TestARejectedEventHoldsItsKeyAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &poison{}
	w.relay(&outboxtest.Faulty{Publisher: w.broker, Poison: p.reject}, outbox.Config{Parallel: 1, Retry: outbox.Retry{MaxAttempts: 1000, Initial: 5 * time.Millisecond, Max: 20 * time.Millisecond}})
	w.publish(message("a", 1), bad("a"), message("a", 3), message("b", 1), message("", 1), bad(""), message("a", 4))
	for i := range 300 {
		w.publish(message("other", i))
	}
	w.publish(message("a", 5))
	w.arrived(303)
	if got := ofKey(w.broker.Events("t"), "a"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("of the key that waits %v arrived", got)
	}
	w.until("stuck keys are shown", func() bool {
		s, err := outbox.GetStatus(t.Context(), w.pool)
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Stuck) == 2 && slices.ContainsFunc(s.Stuck, func(k outbox.StuckKey) bool {
			return k.Key == "a" && k.Waiting == 4 && k.Attempts > 1 && strings.Contains(k.Error, "don't like it")
		}) && s.Pending == 0
	})
	p.cured.Store(true)
	w.arrived(308)
	if got := ofKey(w.broker.Events("t"), "a"); !slices.Equal(got, []string{"1", "bad", "3", "4", "5"}) {
		t.Errorf("of the key that waited %v arrived", got)
	}
	w.publish(message("a", 6))
	w.arrived(309)
}

// TestGivenUp: after its attempts an event is a dead letter, and its key goes on.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &poison{}
	stop := w.relay(&outboxtest.Faulty{Publisher: w.broker, Poison: p.reject}, outbox.Config{Retry: quick})
	sick := bad("a")
	sick.Headers = map[string]string{"tenant": "x"}
	w.publish(message("a", 1), sick, message("a", 3))
	w.arrived(2)
	if got := ofKey(w.broker.Events("t"), "a"); !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("%v arrived", got)
	}
	list, err := outbox.DeadLetters(t.Context(), w.pool, outbox.DeadFilter{Topic: "t", Key: "a", Limit: 10})
	if err != nil || len(list) != 1 {
		t.Fatalf("dead letters: %v, %v", list, err)
	}
	d, err := outbox.DeadLetter(t.Context(), w.pool, list[0].ID)
	if err != nil || d.Attempts != 3 || d.Holds || !strings.Contains(d.Error, "don't like it") || string(d.Payload) != "bad" || d.Headers["tenant"] != "x" || d.Size != 3 {
		t.Errorf("%+v, %v", d, err)
	}
	if none, err := outbox.DeadLetters(t.Context(), w.pool, outbox.DeadFilter{Topic: "another"}); err != nil || len(none) > 0 {
		t.Errorf("of another topic: %v, %v", none, err)
	}
	// A later message has left, so that a redrive can't keep the order, and says so.
	p.cured.Store(true)
	r := redrive(w, d.ID)
	if r.Ordered {
		t.Error("a redrive behind a later message claims to keep the order")
	}
	w.arrived(3)
	e := w.broker.Events("t")[2]
	if e.ID != d.EventID || e.Sequence != r.ID || e.Headers["tenant"] != "x" {
		t.Errorf("redriven: %+v", e)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error { _, err := outbox.Redrive(t.Context(), tx, d.ID, outbox.By{}); return err }); !errors.Is(err, outbox.ErrNotDead) {
		t.Errorf("a second redrive: %v", err)
	}
	if _, err := outbox.DeadLetter(t.Context(), w.pool, d.ID); !errors.Is(err, outbox.ErrNotDead) {
		t.Errorf("after the redrive: %v", err)
	}

	// One that nothing has followed.
	p.cured.Store(false)
	w.publish(bad("lonely"))
	w.until("it dies", func() bool { return query[int](w, "SELECT count(*) FROM pgsagaz.outbox_dead") == 1 })
	stop()
	if r := redrive(w, query[int64](w, "SELECT id FROM pgsagaz.outbox_dead")); !r.Ordered {
		t.Error("nothing has followed, and the redrive claims to break the order")
	}
}

func redrive(w world, id int64) (r outbox.Redriven) {
	w.Helper()
	err := pgx.BeginFunc(w.Context(), w.pool, func(tx pgx.Tx) (err error) { r, err = outbox.Redrive(w.Context(), tx, id, outbox.By{}); return err })
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// TestHold: with that verdict a key waits for an operator, who can redrive in order, or drop.
func TestHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &poison{}
	retry := quick
	retry.Then = outbox.Hold
	broker := &outboxtest.Faulty{Publisher: w.broker, Poison: p.reject}
	stop := w.relay(broker, outbox.Config{Retry: retry})
	w.publish(message("a", 1), bad("a"), message("a", 3), bad("b"), message("b", 2))
	dead := func(key string) (id int64) {
		w.until("key "+key+" has a dead letter that holds it", func() bool {
			list, err := outbox.DeadLetters(t.Context(), w.pool, outbox.DeadFilter{Key: key})
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 1 && list[0].Holds {
				id = list[0].ID
			}
			return id > 0
		})
		return id
	}
	a, b := dead("a"), dead("b")
	// Another relay goes on holding.
	stop()
	w.relay(broker, outbox.Config{Retry: retry})
	w.publish(message("a", 4), message("c", 1))
	w.arrived(2)
	if got := w.broker.Len(); got != 2 {
		t.Errorf("%d events arrived: held keys went on", got)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error { return outbox.Drop(t.Context(), tx, b, outbox.By{}) }); err != nil {
		t.Fatal(err)
	}
	w.arrived(3)
	p.cured.Store(true)
	if r := redrive(w, a); !r.Ordered || r.ID != a {
		t.Errorf("redriven: %+v, want the same in its order", r)
	}
	w.arrived(6)
	events := w.broker.Events("t")
	if got := ofKey(events, "a"); !slices.Equal(got, []string{"1", "bad", "3", "4"}) {
		t.Errorf("of a %v arrived", got)
	}
	if got := ofKey(events, "b"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("of b %v arrived", got)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error { return outbox.Drop(t.Context(), tx, b, outbox.By{}) }); !errors.Is(err, outbox.ErrNotDead) {
		t.Errorf("dropped twice: %v", err)
	}
}

// TestAnOutageBurnsNoAttempts: while the broker is away nothing becomes a dead letter, and everything leaves in
// order when it is back.
func TestAnOutageBurnsNoAttempts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker := &outboxtest.Faulty{Publisher: w.broker}
	broker.Down()
	w.relay(broker, outbox.Config{Retry: outbox.Retry{MaxAttempts: 1}})
	const n, perKey = 2000, 200
	for i := range n {
		w.publish(message(fmt.Sprint(i%(n/perKey)), i))
	}
	w.until("many calls have failed", func() bool { return broker.Calls() > 40 })
	if w.broker.Len() > 0 {
		t.Errorf("%d events arrived at a broker that is down", w.broker.Len())
	}
	broker.Up()
	w.arrived(n)
	for key := range n / perKey {
		got := ofKey(w.broker.Events("t"), fmt.Sprint(key))
		for i, p := range got {
			if p != fmt.Sprint(i*(n/perKey)+key) {
				t.Fatalf("key %d: event %d is %s", key, i, p)
			}
		}
	}
	if dead := query[int](w, "SELECT count(*) FROM pgsagaz.outbox_dead") + query[int](w, "SELECT count(*) FROM pgsagaz.outbox_stuck"); dead > 0 {
		t.Errorf("%d events are blamed for the outage", dead)
	}
}

// TestPartOfTheBrokerIsDown: keys that do not get through wait, others go on.
func TestPartOfTheBrokerIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	down := &atomic.Bool{}
	down.Store(true)
	w.relay(partly{w.broker, down}, outbox.Config{Parallel: 1})
	w.publish(message("down", 1), message("up", 1), message("down", 2), message("up", 2))
	for i := range 100 {
		w.publish(message("up", 3+i))
	}
	w.arrived(102)
	down.Store(false)
	w.arrived(104)
	if got := ofKey(w.broker.Events("t"), "down"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("%v arrived", got)
	}
}

// TestATopicIsDown: for as long as one topic fails, or hangs, all that is for others goes on, also when more waits than the relay may
// hold; and then all of it leaves in order.
func TestATopicIsDown(t *testing.T) {
	t.Parallel()
	for name, stall := range map[string]bool{"fails": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var down atomic.Bool
			down.Store(true)
			broker := &outboxtest.Faulty{Publisher: w.broker, Stall: stall, Away: func(e outbox.Event) bool { return e.Topic == "down" && down.Load() }}
			w.relay(broker, outbox.Config{Parallel: 2, Batch: 50, Window: 200, PublishTimeout: 300 * time.Millisecond, RotateRows: 500, RotateEvery: time.Second})
			n := 0
			flow := func(lots int) { // most is for the topic that is away
				for range lots {
					var messages []outbox.Message
					for range 50 {
						n++
						m := message(fmt.Sprintf("down %d", n%13), n)
						if m.Topic = "down"; n%5 == 0 {
							m.Key = ""
						}
						messages = append(messages, m)
					}
					w.publish(append(messages, message("up", n), message("", n))...)
				}
			}
			flow(20)
			w.arrived(2 * 20)
			flow(20)
			w.arrived(2 * 40)
			if got := len(w.broker.Events("down")); got > 0 {
				t.Errorf("%d events arrived at a topic that is away", got)
			}
			down.Store(false)
			w.arrived(n + 2*40)
			keys := map[string]int{}
			for _, e := range w.broker.Events("") {
				at, _ := strconv.Atoi(string(e.Payload))
				if e.Key != "" && at <= keys[e.Key] {
					t.Errorf("key %s: %d came after %d", e.Key, at, keys[e.Key])
				}
				keys[e.Key] = at
			}
			if left := query[int](w, "SELECT (SELECT count(*) FROM pgsagaz.outbox_dead) + (SELECT count(*) FROM pgsagaz.outbox_stuck)"); left > 0 {
				t.Errorf("%d events are blamed", left)
			}
			if got := w.broker.Len(); got != n+2*40 {
				t.Errorf("%d arrivals of %d events, of which none was in doubt", got, n+2*40)
			}
			w.until("its pages are done", func() bool {
				s, err := outbox.GetStatus(t.Context(), w.pool)
				return err == nil && s.Pending == 0
			})
		})
	}
}

// TestAPublisherBreaksItsContract: too few answers count as none.
func TestAPublisherBreaksItsContract(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var calls atomic.Int64
	w.relay(answers{w.broker, func(errs []error) []error {
		if calls.Add(1) == 1 {
			return errs[:len(errs)-1]
		}
		return errs
	}}, outbox.Config{})
	w.publish(message("a", 1), message("a", 2))
	w.arrived(4)
}

// TestStuckSurvives: what was set aside is not published from the stream again, nor forgotten, by the next relay.
func TestStuckSurvives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &poison{}
	broker := &outboxtest.Faulty{Publisher: w.broker, Poison: p.reject}
	stop := w.relay(broker, outbox.Config{Retry: outbox.Retry{MaxAttempts: 1000, Initial: time.Hour, Max: time.Hour}})
	w.publish(bad("a"), message("a", 2), message("b", 1))
	w.until("the key is set aside", func() bool {
		return query[int](w, "SELECT count(*) FROM pgsagaz.outbox_stuck WHERE NOT done AND attempts <= 1") == 2 &&
			query[int](w, "SELECT coalesce(max(attempts), 0) FROM pgsagaz.outbox_stuck") == 1
	})
	w.arrived(1)
	stop()
	// As after a crash that lost the cursor: the next relay meets all of it in the stream once more.
	if _, err := w.pool.Exec(t.Context(), "UPDATE pgsagaz.outbox_cursor SET prev = '3:3:', cur = NULL, last_id = 0"); err != nil {
		t.Fatal(err)
	}
	w.relay(broker, outbox.Config{})
	w.publish(message("a", 3))
	w.arrived(2) // b again
	if got := ofKey(w.broker.Events("t"), "a"); len(got) > 0 {
		t.Errorf("%v arrived of the key that waits", got)
	}
	p.cured.Store(true)
	if _, err := w.pool.Exec(t.Context(), "UPDATE pgsagaz.outbox_stuck SET next_at = now()"); err != nil {
		t.Fatal(err)
	}
	// The relay knows the hour by heart; the next one asks.
	w.until("three events wait", func() bool { return query[int](w, "SELECT count(*) FROM pgsagaz.outbox_stuck WHERE NOT done") == 3 })
	w.relay(broker, outbox.Config{})
	w.until("half of the buckets move", func() bool { return query[int](w, "SELECT count(DISTINCT epoch) FROM pgsagaz.outbox_cursor") == 2 })
}

// TestTheOutboxIsFull: with a limit, writers hear of it.
func TestTheOutboxIsFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker := &outboxtest.Faulty{Publisher: w.broker}
	broker.Down()
	w.relay(broker, outbox.Config{MaxPending: 10})
	full := func() bool {
		err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, message("a", 1)) })
		if err != nil && (!errors.Is(err, outbox.ErrFull) || !strings.Contains(err.Error(), "the limit is 10")) {
			t.Fatal(err)
		}
		return err != nil
	}
	w.until("the outbox is full", full)
	if got := query[int](w, "SELECT count(*) FROM pgsagaz.outbox"); got > 30 {
		t.Errorf("%d messages are in an outbox of 10", got)
	}
	// Those that publish by themselves would only add to what waits.
	direct := w.direct(broker, outbox.DirectConfig{})
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		_, err := direct.PublishAfterCommit(t.Context(), tx, message("", 1))
		return err
	}); !errors.Is(err, outbox.ErrFull) {
		t.Errorf("PublishAfterCommit: %v, want ErrFull", err)
	}
	broker.Up()
	w.until("there is room again", func() bool { return !full() })
}

func TestConfigIsChecked(t *testing.T) {
	pool := sqltest.New(t)
	for name, cfg := range map[string]outbox.Config{
		"Lease":    {Lease: time.Millisecond},
		"Parallel": {Parallel: 257},
		"Window":   {Batch: 10, Window: 5},
		"Retry":    {Retry: outbox.Retry{Initial: time.Hour, Max: time.Second}},
		"Then":     {Retry: outbox.Retry{Then: "explode"}},
		"Poll":     {Poll: -1},
	} {
		if _, err := outbox.NewRelay(pool, memorypub.New(memorypub.Config{}), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
