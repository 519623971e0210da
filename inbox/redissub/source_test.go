package redissub_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/inboxtest"
	"github.com/pgsagaz/pgsagaz/inbox/redissub"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/redispub"
)

func options(t testing.TB, network *brokertest.Net) redis.UniversalOptions {
	t.Helper()
	o, err := redis.ParseURL(brokertest.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	return redis.UniversalOptions{Addrs: []string{o.Addr}, Username: o.Username, Password: o.Password, DB: o.DB, Dialer: network.Dial}
}

// server is a plain client, for the tests' own questions.
func server(t testing.TB) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(brokertest.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newStream(t testing.TB) string {
	t.Helper()
	name, c := brokertest.Name("test"), server(t)
	t.Cleanup(func() { c.Del(context.Background(), name) })
	return name
}

// send publishes messages as the outbox does.
func send(t testing.TB, stream string, messages ...inbox.Message) {
	t.Helper()
	p, err := redispub.New(redispub.Config{Options: options(t, &brokertest.Net{})})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	events := make([]outbox.Event, len(messages))
	for i, m := range messages {
		events[i] = outbox.Event{ID: uuid.MustParse(m.ID), Topic: stream, Key: m.Key, Type: m.Type, Payload: m.Payload, Headers: m.Headers,
			TraceParent: m.TraceParent, CreatedAt: time.Now()}
	}
	if err := errors.Join(p.Publish(t.Context(), events)...); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, stream string, fields ...string) {
	t.Helper()
	if err := server(t).XAdd(t.Context(), &redis.XAddArgs{Stream: stream, Values: fields}).Err(); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, network *brokertest.Net, cfg redissub.Config) *redissub.Source {
	t.Helper()
	cfg.Options = options(t, network)
	if cfg.ClaimAfter == 0 {
		cfg.ClaimAfter = 2 * time.Second
	}
	s, err := redissub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSource(t *testing.T) {
	brokertest.Redis(t)
	inboxtest.TestSource(t, func(t *testing.T) inboxtest.Harness {
		stream, group := newStream(t), brokertest.Name("group")
		networks := &brokertest.Networks{}
		return inboxtest.Harness{
			Topic: stream,
			Open: func(t testing.TB) inbox.Source {
				network := &brokertest.Net{}
				s := open(t, network, redissub.Config{Group: group, Topics: []string{stream}})
				networks.Keep(s, network)
				return s
			},
			Send:  func(t testing.TB, messages ...inbox.Message) { send(t, stream, messages...) },
			Kill:  func(_ testing.TB, s inbox.Source) { networks.Down(s) },
			Cut:   func(testing.TB) { networks.Cut() },
			Spoil: func(t testing.TB, payload []byte) { add(t, stream, "ce_specversion", "1.0", "data", string(payload)) },
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for says, cfg := range map[string]redissub.Config{
		"no group":  {Topics: []string{"t"}},
		"no topics": {Group: "g"},
		"negative":  {Group: "g", Topics: []string{"t"}, Block: -1},
	} {
		if _, err := redissub.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

// Several streams, with a prefix; entries that nobody made for us have their place for an id.
func TestForeignEntries(t *testing.T) {
	first, second := newStream(t), newStream(t)
	const prefix = "test-"
	s := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Prefix: prefix, Topics: []string{first[len(prefix):], second[len(prefix):]}})
	defer inboxtest.Close(t, s)
	add(t, first, "temperature", "21", "unit", "C")
	add(t, second, "data", `{"event_id":"8a7c","aggregate_id":"o-1","event_type":"OrderCreated","payload":{"a":1}}`)
	got := map[string]inbox.Delivery{}
	for range 2 {
		d := inboxtest.FetchOne(t, s)
		got[prefix+d.Message.Topic] = d
	}
	if m := got[first].Message; got[first].Err != nil || !strings.HasPrefix(m.ID, first+"/") || m.Headers["temperature"] != "21" || m.Headers["unit"] != "C" || len(m.Payload) > 0 {
		t.Errorf("%+v", m)
	}
	if m := got[second].Message; m.ID != "8a7c" || m.Source != "sagaz" || m.Type != "OrderCreated" || string(m.Payload) != `{"a":1}` {
		t.Errorf("%+v", m)
	}
}

// A consumer that is slow keeps what it has, for much longer than ClaimAfter.
func TestSlowConsumerKeeps(t *testing.T) {
	stream := newStream(t)
	slow := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}, ClaimAfter: 600 * time.Millisecond})
	defer inboxtest.Close(t, slow)
	add(t, stream, "n", "1")
	d := inboxtest.FetchOne(t, slow)
	other := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}, ClaimAfter: 600 * time.Millisecond})
	defer inboxtest.Close(t, other)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if some, _ := other.Fetch(ctx, 10); len(some) > 0 {
			t.Fatalf("%v was taken from a living consumer", some[0].Message.ID)
		}
	}
	select {
	case <-d.Revoked:
		t.Error("it was revoked")
	default:
	}
	if err := slow.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
		t.Error(err)
	}
}

// A consumer that was cut off loses what it had, and hears of it when it is back.
func TestTakenOverIsRevoked(t *testing.T) {
	stream := newStream(t)
	network := &brokertest.Net{}
	first := open(t, network, redissub.Config{Group: "g", Topics: []string{stream}, ClaimAfter: 500 * time.Millisecond})
	defer inboxtest.Close(t, first)
	add(t, stream, "n", "1")
	d := inboxtest.FetchOne(t, first)
	network.Down()
	second := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}, ClaimAfter: 500 * time.Millisecond})
	defer inboxtest.Close(t, second)
	again := inboxtest.FetchOne(t, second)
	if again.Message.ID != d.Message.ID || again.Redelivered != 1 {
		t.Errorf("%s was delivered, %d times before; want %s, once", again.Message.ID, again.Redelivered, d.Message.ID)
	}
	network.Up()
	select {
	case <-d.Revoked:
	case <-time.After(30 * time.Second):
		t.Error("it is not revoked")
	}
	// The first has dealt with it nevertheless, and says so.
	if err := first.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
		t.Error(err)
	}
	pending, err := server(t).XPending(t.Context(), stream, "g").Result()
	if err != nil || pending.Count != 0 {
		t.Errorf("%+v, %v; want nothing pending", pending, err)
	}
}

// A consumer's name stays while it holds something, and goes with the last.
func TestNamesOfConsumers(t *testing.T) {
	stream := newStream(t)
	consumers := func() (names []string) {
		all, err := server(t).XInfoConsumers(t.Context(), stream, "g").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			names = append(names, fmt.Sprintf("%s:%d", c.Name, c.Pending))
		}
		return names
	}
	cfg := redissub.Config{Group: "g", Topics: []string{stream}, Consumer: "one"}
	s := open(t, &brokertest.Net{}, cfg)
	add(t, stream, "n", "1")
	first := inboxtest.FetchOne(t, s)
	inboxtest.Close(t, s)
	if got := consumers(); len(got) != 1 || got[0] != "one:1" {
		t.Errorf("consumers %v, want one with its entry", got)
	}
	cfg.Consumer = "two"
	s = open(t, &brokertest.Net{}, cfg)
	d := inboxtest.FetchOne(t, s)
	if d.Message.ID != first.Message.ID {
		t.Errorf("%s, want %s again", d.Message.ID, first.Message.ID)
	}
	if err := s.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
		t.Error(err)
	}
	inboxtest.Close(t, s)
	if got := consumers(); len(got) != 1 || got[0] != "one:0" {
		t.Errorf("consumers %v, want no second", got)
	}
}

// The stream is deleted, and its groups with it: they are made anew.
func TestDeletedStream(t *testing.T) {
	stream := newStream(t)
	s := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}})
	defer inboxtest.Close(t, s)
	add(t, stream, "n", "1")
	inboxtest.FetchOne(t, s)
	if err := server(t).Del(t.Context(), stream).Err(); err != nil {
		t.Fatal(err)
	}
	add(t, stream, "n", "2")
	if d := inboxtest.FetchOne(t, s); d.Message.Headers["n"] != "2" {
		t.Errorf("%+v", d.Message)
	}
}

// What comes after a stream was deleted is new, for a group that begins with what is new as well. What was old stays so, where the group alone is gone.
func TestNewestOfADeletedStream(t *testing.T) {
	stream := newStream(t)
	add(t, stream, "n", "old")
	s := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}, Newest: true})
	defer inboxtest.Close(t, s)
	want := func(n string) {
		t.Helper()
		add(t, stream, "n", n)
		d := inboxtest.FetchOne(t, s)
		if d.Message.Headers["n"] != n {
			t.Errorf("%+v, want %s", d.Message, n)
		}
		if err := s.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if some, _ := s.Fetch(ctx, 1); len(some) > 0 {
		t.Errorf("%v", some)
	}
	want("1")
	if err := server(t).XGroupDestroy(t.Context(), stream, "g").Err(); err != nil {
		t.Fatal(err)
	}
	if d := inboxtest.FetchOne(t, s); d.Message.Headers["n"] != "1" { // again: who had dealt with it is forgotten
		t.Errorf("%+v, want what came since the group began", d.Message)
	}
	if err := server(t).Del(t.Context(), stream).Err(); err != nil {
		t.Fatal(err)
	}
	want("2")
	if err := server(t).Del(t.Context(), stream).Err(); err != nil {
		t.Fatal(err)
	}
	if err := server(t).XAdd(t.Context(), &redis.XAddArgs{Stream: stream, ID: "1-1", Values: []string{"n", "3"}}).Err(); err != nil {
		t.Fatal(err)
	}
	if d := inboxtest.FetchOne(t, s); d.Message.Headers["n"] != "3" {
		t.Errorf("%+v, want 3", d.Message)
	}
}

func TestNewest(t *testing.T) {
	stream := newStream(t)
	add(t, stream, "n", "old")
	s := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}, Newest: true})
	defer inboxtest.Close(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if some, err := s.Fetch(ctx, 1); len(some) > 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", some, err)
	}
	add(t, stream, "n", "new")
	if d := inboxtest.FetchOne(t, s); d.Message.Headers["n"] != "new" {
		t.Errorf("%+v", d.Message)
	}
}

func TestControlRestart(t *testing.T) {
	control := brokertest.Control(t, "redis")
	stream := newStream(t)
	s := open(t, &brokertest.Net{}, redissub.Config{Group: "g", Topics: []string{stream}})
	defer inboxtest.Close(t, s)
	add(t, stream, "n", "1")
	first := inboxtest.FetchOne(t, s)
	control("restart")
	if d := inboxtest.FetchOne(t, s); d.Message.ID != first.Message.ID {
		t.Errorf("%+v, want what was not acked", d.Message)
	} else if err := s.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
		t.Error(err)
	}
	add(t, stream, "n", "2")
	if d := inboxtest.FetchOne(t, s); d.Message.Headers["n"] != "2" {
		t.Errorf("%+v", d.Message)
	}
}
