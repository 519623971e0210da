package amqpsub_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/amqpsub"
	"github.com/pgsagaz/pgsagaz/inbox/inboxtest"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
)

// side runs f on a channel of the test's own.
func side(t testing.TB, f func(ch *amqp.Channel) error) {
	t.Helper()
	c, err := amqp.Dial(brokertest.AMQP(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ch, err := c.Channel()
	if err == nil {
		err = f(ch)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newName is one for an exchange and a queue, which are removed after the test.
func newName(t testing.TB) string {
	t.Helper()
	name := brokertest.Name("test")
	t.Cleanup(func() {
		side(t, func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(name, false, false, false)
			return errors.Join(err, ch.ExchangeDelete(name, false, false))
		})
	})
	return name
}

// send publishes messages as the outbox does.
func send(t testing.TB, exchange string, messages ...inbox.Message) {
	t.Helper()
	p, err := amqppub.New(amqppub.Config{URL: brokertest.AMQP(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	events := make([]outbox.Event, len(messages))
	for i, m := range messages {
		events[i] = outbox.Event{ID: uuid.MustParse(m.ID), Topic: exchange, RoutingKey: "a.b", Key: m.Key, Type: m.Type, Payload: m.Payload, Headers: m.Headers,
			TraceParent: m.TraceParent, CreatedAt: time.Now()}
	}
	if err := errors.Join(p.Publish(t.Context(), events)...); err != nil {
		t.Fatal(err)
	}
}

// put puts a message into the queue as it is.
func put(t testing.TB, queue string, m amqp.Publishing) {
	t.Helper()
	side(t, func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		c, err := ch.PublishWithDeferredConfirm("", queue, true, false, m)
		if err != nil {
			return err
		}
		if !c.Wait() {
			return errors.New("not confirmed")
		}
		return nil
	})
}

func open(t testing.TB, network *brokertest.Net, cfg amqpsub.Config) *amqpsub.Source {
	t.Helper()
	cfg.URL, cfg.Dial, cfg.Heartbeat = brokertest.AMQP(t), network.Dial, time.Second
	s, err := amqpsub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSource(t *testing.T) {
	brokertest.AMQP(t)
	inboxtest.TestSource(t, func(t *testing.T) inboxtest.Harness {
		name := newName(t)
		cfg := amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}}
		first := open(t, &brokertest.Net{}, cfg) // makes the queue, before anything is sent
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := first.Fetch(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		inboxtest.Close(t, first)
		networks := &brokertest.Networks{}
		return inboxtest.Harness{
			Topic: name,
			Open: func(t testing.TB) inbox.Source {
				network := &brokertest.Net{}
				s := open(t, network, cfg)
				networks.Keep(s, network)
				return s
			},
			Send:  func(t testing.TB, messages ...inbox.Message) { send(t, name, messages...) },
			Kill:  func(_ testing.TB, s inbox.Source) { networks.Down(s) },
			Cut:   func(testing.TB) { networks.Cut() },
			Spoil: func(t testing.TB, payload []byte) { put(t, name, amqp.Publishing{Body: payload}) },
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := amqpsub.Config{URL: "amqp://localhost/", Queue: "q"}
	for says, change := range map[string]func(*amqpsub.Config){
		"amqp://user":          func(c *amqpsub.Config) { c.URL = "localhost" },
		"no queue":             func(c *amqpsub.Config) { c.Queue = "" },
		"Topology 7":           func(c *amqpsub.Config) { c.Topology = 7 },
		"negative":             func(c *amqpsub.Config) { c.Prefetch = -1 },
		"throws messages away": func(c *amqpsub.Config) { c.DeliveryLimit = 5 },
		"without an exchange":  func(c *amqpsub.Config) { c.Bindings = []amqpsub.Binding{{}} },
	} {
		cfg := good
		change(&cfg)
		if _, err := amqpsub.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

func TestForeignMessages(t *testing.T) {
	name := newName(t)
	s := open(t, &brokertest.Net{}, amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name, Kind: "fanout"}}})
	defer inboxtest.Close(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = s.Fetch(ctx, 1) // makes the queue
	when := time.Now().Truncate(time.Second)
	put(t, name, amqp.Publishing{MessageId: "m-1", Type: "T", Timestamp: when, ContentType: "text/plain", Body: []byte("x"),
		Headers: amqp.Table{"n": int32(7), "list": []any{"a", int32(1)}}})
	put(t, name, amqp.Publishing{Body: []byte(`{"event_id":"8a7c","aggregate_id":"o-1","event_type":"OrderCreated","payload":{"a":1}}`)})
	put(t, name, amqp.Publishing{Body: []byte("who am I")})
	plain, sagaz, nobody := inboxtest.FetchOne(t, s), inboxtest.FetchOne(t, s), inboxtest.FetchOne(t, s)
	if m := plain.Message; plain.Err != nil || m.ID != "m-1" || m.Type != "T" || !m.Time.Equal(when) || m.Headers["content-type"] != "text/plain" ||
		m.Headers["n"] != "7" || m.Headers["list"] != `["a",1]` || string(m.Payload) != "x" {
		t.Errorf("%+v", plain)
	}
	if m := sagaz.Message; sagaz.Err != nil || m.ID != "8a7c" || m.Source != "sagaz" || string(m.Payload) != `{"a":1}` {
		t.Errorf("%+v", sagaz)
	}
	if nobody.Err == nil || !strings.Contains(nobody.Err.Error(), "no id") || nobody.Message.ID == "" || string(nobody.Message.Payload) != "who am I" {
		t.Errorf("%+v", nobody)
	}
}

// RabbitMQ counts how often it has delivered a message of a quorum queue. There is no limit to it.
func TestRedelivered(t *testing.T) {
	name := newName(t)
	network := &brokertest.Net{}
	s := open(t, network, amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}})
	defer inboxtest.Close(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = s.Fetch(ctx, 1)
	send(t, name, inbox.Message{ID: uuid.NewString(), Type: "t"})
	for i := range 25 {
		if d := inboxtest.FetchOne(t, s); d.Redelivered != i {
			t.Fatalf("at delivery %d: %d before", i, d.Redelivered)
		}
		network.Cut()
	}
}

// What is given back comes again before all that was not given back, as its order asks for.
func TestReleaseKeepsOrder(t *testing.T) {
	name := newName(t)
	cfg := amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}, SingleActive: true}
	s := open(t, &brokertest.Net{}, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = s.Fetch(ctx, 1)
	var sent []inbox.Message
	for range 100 {
		sent = append(sent, inbox.Message{ID: uuid.NewString(), Type: "t", Key: "k"})
	}
	send(t, name, sent...)
	var held []inbox.Delivery
	for range 40 {
		held = append(held, inboxtest.FetchOne(t, s))
	}
	if err := errors.Join(s.Release(t.Context(), held), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, &brokertest.Net{}, cfg)
	defer inboxtest.Close(t, s)
	for i, want := range sent {
		if d := inboxtest.FetchOne(t, s); d.Message.ID != want.ID {
			t.Fatalf("message %d comes in another's place", i)
		}
	}
}

// With a limit the message goes to the exchange for dead letters.
func TestDeliveryLimit(t *testing.T) {
	name, dead := newName(t), newName(t)
	side(t, func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare(dead, "fanout", true, false, false, false, nil); err != nil {
			return err
		}
		_, err := ch.QueueDeclare(dead, true, false, false, false, nil)
		return errors.Join(err, ch.QueueBind(dead, "", dead, false, nil))
	})
	network := &brokertest.Net{}
	s := open(t, network, amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}, DeliveryLimit: 2, DeadLetterExchange: dead})
	defer inboxtest.Close(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = s.Fetch(ctx, 1)
	id := uuid.NewString()
	send(t, name, inbox.Message{ID: id, Type: "t"})
	for range 3 {
		inboxtest.FetchOne(t, s)
		network.Cut()
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var got amqp.Delivery
		var ok bool
		side(t, func(ch *amqp.Channel) (err error) { got, ok, err = ch.Get(dead, true); return err })
		if ok {
			if got.MessageId != id {
				t.Errorf("dead is %s, want %s", got.MessageId, id)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not among the dead letters")
		}
	}
}

func TestSingleActive(t *testing.T) {
	name := newName(t)
	cfg := amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}, SingleActive: true}
	first := open(t, &brokertest.Net{}, cfg)
	defer inboxtest.Close(t, first)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = first.Fetch(ctx, 1)
	second := open(t, &brokertest.Net{}, cfg)
	defer inboxtest.Close(t, second)
	for range 5 {
		send(t, name, inbox.Message{ID: uuid.NewString(), Type: "t"})
	}
	ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if some, _ := second.Fetch(ctx, 5); len(some) > 0 {
		t.Errorf("the second got %d messages", len(some))
	}
	var held []inbox.Delivery
	for range 5 {
		held = append(held, inboxtest.FetchOne(t, first))
	}
	if err := first.Ack(t.Context(), held[:2]); err != nil {
		t.Error(err)
	}
	inboxtest.Close(t, first)
	if d := inboxtest.FetchOne(t, second); d.Message.ID != held[2].Message.ID {
		t.Errorf("%s, want the first that was not acked", d.Message.ID)
	}
}

// The queue is deleted: RabbitMQ cancels the consumer, which makes the queue anew.
func TestDeletedQueue(t *testing.T) {
	name := newName(t)
	s := open(t, &brokertest.Net{}, amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}})
	defer inboxtest.Close(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = s.Fetch(ctx, 1)
	side(t, func(ch *amqp.Channel) error { _, err := ch.QueueDelete(name, false, false, false); return err })
	for begun := time.Now(); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := s.Fetch(ctx, 1)
		cancel()
		if err != nil && strings.Contains(err.Error(), "cancelled") {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("nobody notices that the queue is gone: %v", err)
		}
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = s.Fetch(ctx, 1)
	id := uuid.NewString()
	send(t, name, inbox.Message{ID: id, Type: "t"})
	if d := inboxtest.FetchOne(t, s); d.Message.ID != id {
		t.Errorf("%+v", d.Message)
	}
}

func TestCheck(t *testing.T) {
	s := open(t, &brokertest.Net{}, amqpsub.Config{Queue: "no such queue", Topology: amqpsub.Check})
	defer inboxtest.Close(t, s)
	if _, err := s.Fetch(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "NOT_FOUND") {
		t.Errorf("%v, want that there is no such queue", err)
	}
}

func TestTLSAndPassword(t *testing.T) {
	u, config := brokertest.Secure(t, "AMQP")
	name := newName(t)
	side(t, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, nil)
		return err
	})
	put(t, name, amqp.Publishing{MessageId: "m"})
	s, err := amqpsub.New(amqpsub.Config{URL: u.String(), TLS: config, Queue: name, Topology: amqpsub.Check})
	if err != nil {
		t.Fatal(err)
	}
	defer inboxtest.Close(t, s)
	if d := inboxtest.FetchOne(t, s); d.Message.ID != "m" {
		t.Errorf("%+v", d.Message)
	}
}

func TestControlRestart(t *testing.T) {
	control := brokertest.Control(t, "amqp")
	name := newName(t)
	s := open(t, &brokertest.Net{}, amqpsub.Config{Queue: name, Bindings: []amqpsub.Binding{{Exchange: name}}})
	defer inboxtest.Close(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _ = s.Fetch(ctx, 1)
	id := uuid.NewString()
	send(t, name, inbox.Message{ID: id, Type: "t"})
	d := inboxtest.FetchOne(t, s)
	control("restart")
	select {
	case <-d.Revoked:
	case <-time.After(30 * time.Second):
		t.Error("it is not revoked")
	}
	if d := inboxtest.FetchOne(t, s); d.Message.ID != id || d.Redelivered == 0 {
		t.Errorf("%+v, want the same again", d)
	} else if err := s.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
		t.Error(err)
	}
}
