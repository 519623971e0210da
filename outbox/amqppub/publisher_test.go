package amqppub_test

import (
	"context"
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
)

var faults = flag.Duration("faults", 0, "for how long faults rage; 0: as the suite says")

func TestPublisher(t *testing.T) {
	url := brokertest.AMQP(t)
	for name, format := range map[string]outbox.Format{"binary": {}, "structured": {Structured: true}} {
		t.Run(name, func(t *testing.T) {
			outboxtest.TestPublisher(t, func(t *testing.T) outboxtest.Harness {
				network := &brokertest.Net{}
				return outboxtest.Harness{
					Open: func(t testing.TB) outbox.Publisher {
						p, err := amqppub.New(amqppub.Config{URL: url, Format: format, Topology: amqppub.Check, Dial: network.Dial})
						if err != nil {
							t.Fatal(err)
						}
						return p
					},
					Topic: func(t testing.TB) string { return newTopic(t, nil) }, Events: read,
					Unknown: brokertest.Name("unknown"), TooLarge: maxMessage + 1, Faults: *faults,
					Down: func(testing.TB) { network.Down() }, Up: func(testing.TB) { network.Up() },
				}
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	const url = "amqp://localhost:5672/"
	for says, cfg := range map[string]amqppub.Config{
		"amqp://user":  {URL: "http://localhost"},
		"Topology 7":   {URL: url, Topology: 7},
		"Unroutable 7": {URL: url, Unroutable: 7},
		"negative":     {URL: url, MaxInFlight: -1},
	} {
		if _, err := amqppub.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

// RabbitMQ confirms what it could not route, right after it has returned it: only the return tells.
func TestUnroutable(t *testing.T) {
	topic := newTopic(t, nil)
	side(t, func(ch *amqp.Channel) error {
		return errors.Join(ch.QueueUnbind(topic, "#", topic, nil), ch.QueueBind(topic, "good.*", topic, false, nil))
	})
	var events []outbox.Event
	for i, key := range slices.Concat(keys(50), keys(50)) {
		e := newEvent(topic, key)
		e.RoutingKey = []string{"good.a", "bad.a"}[min(1, i%5/4)] // every fifth
		if i >= 50 {
			e.RoutingKey = "good.a"
		}
		events = append(events, e)
	}
	p := open(t, amqppub.Config{})
	var want []uuid.UUID
	for i, err := range p.Publish(t.Context(), events) {
		bad := i%5 == 4
		switch {
		case !bad && err != nil:
			t.Errorf("event %d: %v", i, err)
		case bad && i < 50 && (!rejected(err) || !strings.Contains(err.Error(), "bad.a")):
			t.Errorf("the unroutable event %d: %v", i, err)
		case bad && i >= 50 && !errors.Is(err, outbox.ErrHeld):
			t.Errorf("event %d, behind an unroutable one: %v", i, err)
		}
		if !bad {
			want = append(want, events[i].ID)
		}
	}
	got := ids(read(t, topic))
	if len(got) != len(want) {
		t.Errorf("%d events arrived, want %d", len(got), len(want))
	}
	drops := open(t, amqppub.Config{Unroutable: amqppub.Drop})
	if err := drops.Publish(t.Context(), events[4:5])[0]; err != nil {
		t.Errorf("Drop: %v", err)
	}
}

// A full queue takes nothing, and later takes again: without a hold the second event would overtake the first.
func TestFullQueue(t *testing.T) {
	topic := newTopic(t, amqp.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	p := open(t, amqppub.Config{})
	events := []outbox.Event{newEvent(topic, "k"), newEvent(topic, "k"), newEvent(topic, "k")}
	errs := p.Publish(t.Context(), events)
	if errs[0] != nil || errs[1] == nil || rejected(errs[1]) || !errors.Is(errs[2], outbox.ErrHeld) {
		t.Errorf("answers %v, want the first acknowledged, the second refused without blame, the third held", errs)
	}
	if got := ids(read(t, topic)); !slices.Equal(got, ids(events[:1])) {
		t.Errorf("%v arrived", got)
	}
}

// Among 200 under way RabbitMQ closes the channel for one: it alone is to blame.
func TestOneIsToBlame(t *testing.T) {
	topic := newTopic(t, nil)
	p := open(t, amqppub.Config{MaxInFlight: 64})
	var events []outbox.Event
	for _, key := range keys(200) {
		events = append(events, newEvent(topic, key))
	}
	const bad = 77
	events[bad].Payload = make([]byte, maxMessage+1)
	for i, err := range p.Publish(t.Context(), events) {
		if i != bad && err != nil || i == bad && !rejected(err) {
			t.Errorf("event %d: %v", i, err)
		}
	}
	got := firsts(ids(read(t, topic)))
	if len(got) != 199 || slices.Contains(got, events[bad].ID) {
		t.Errorf("%d events arrived", len(got))
	}
}

func TestTopology(t *testing.T) {
	name := brokertest.Name("test")
	e := newEvent(name, "k")
	checks := open(t, amqppub.Config{Topology: amqppub.Check, Unroutable: amqppub.Drop})
	if err := checks.Publish(t.Context(), []outbox.Event{e})[0]; !rejected(err) || !strings.Contains(err.Error(), name) {
		t.Errorf("Check, without the exchange: %v", err)
	}
	declares := open(t, amqppub.Config{Kind: "fanout", Unroutable: amqppub.Drop})
	must(t, declares, e)
	t.Cleanup(func() { remove(t, name) })
	must(t, checks, e) // it is there now
	other := open(t, amqppub.Config{Kind: "direct"})
	if err := other.Publish(t.Context(), []outbox.Event{e})[0]; !rejected(err) || !strings.Contains(err.Error(), "inequivalent arg 'type'") {
		t.Errorf("Declare, with an exchange of another kind: %v", err)
	}
	// An exchange that vanishes is made again.
	side(t, func(ch *amqp.Channel) error { return ch.ExchangeDelete(name, false, false) })
	must(t, declares, e)
	if err := checks.Publish(t.Context(), []outbox.Event{e})[0]; err != nil {
		t.Errorf("Check, with the exchange made again: %v", err)
	}
}

func TestRoute(t *testing.T) {
	topic := newTopic(t, nil)
	p := open(t, amqppub.Config{Route: func(e outbox.Event) (string, string) { return "", topic }}) // to the queue itself
	e := newEvent("any", "k")
	must(t, p, e)
	if got := ids(read(t, topic)); !slices.Equal(got, []uuid.UUID{e.ID}) {
		t.Errorf("%v arrived", got)
	}
}

func TestNamesThatAreTooLong(t *testing.T) {
	topic := newTopic(t, nil)
	p := open(t, amqppub.Config{})
	long := strings.Repeat("x", 256)
	good, routing, kind, header, exchange := newEvent(topic, "1"), newEvent(topic, "2"), newEvent(topic, "3"), newEvent(topic, "4"), newEvent(long, "5")
	routing.RoutingKey, kind.Type, header.Headers = long, long, map[string]string{long: ""}
	for i, err := range p.Publish(t.Context(), []outbox.Event{good, routing, kind, header, exchange}) {
		if i == 0 && err != nil || i > 0 && !rejected(err) {
			t.Errorf("event %d: %v", i, err)
		}
	}
}

func TestLostConfirmation(t *testing.T) {
	topic := newTopic(t, nil)
	network := &brokertest.Net{}
	p := open(t, amqppub.Config{Dial: network.Dial})
	events := []outbox.Event{newEvent(topic, "k"), newEvent(topic, "k"), newEvent(topic, "k")}
	must(t, p, events[0])
	network.Mute()
	errs := p.Publish(t.Context(), events[1:])
	if errs[0] == nil || rejected(errs[0]) || !errors.Is(errs[1], outbox.ErrHeld) {
		t.Errorf("without a confirmation: %v", errs)
	}
	network.Up()
	must(t, p, events[1])
	must(t, p, events[2])
	want := []uuid.UUID{events[0].ID, events[1].ID, events[1].ID, events[2].ID}
	if got := ids(read(t, topic)); !slices.Equal(got, want) {
		t.Errorf("%v arrived, want %v", got, want)
	}
}

func TestCutConnections(t *testing.T) {
	topic := newTopic(t, nil)
	network := &brokertest.Net{}
	p := open(t, amqppub.Config{Dial: network.Dial})
	var want []uuid.UUID
	for i := range 40 {
		e := newEvent(topic, "k")
		want = append(want, e.ID)
		if i%4 == 3 {
			network.Cut()
		}
		must(t, p, e)
	}
	if got := firsts(ids(read(t, topic))); !slices.Equal(got, want) {
		t.Errorf("the order is another than that of publishing:\n%v\n%v", got, want)
	}
	if n := network.Dials(); n < 10 {
		t.Errorf("%d connections", n)
	}
}

func TestTLSAndPassword(t *testing.T) {
	u, config := brokertest.Secure(t, "AMQP")
	topic := newTopic(t, nil)
	p, err := amqppub.New(amqppub.Config{URL: u.String(), TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	must(t, p, newEvent(topic, "k"))
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	u.User = nil
	u.RawQuery = ""
	wrong, err := amqppub.New(amqppub.Config{URL: strings.Replace(u.String(), "://", "://guest:wrong@", 1), TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	if err := wrong.Publish(t.Context(), []outbox.Event{newEvent(topic, "k")})[0]; err == nil || rejected(err) {
		t.Errorf("with a wrong password: %v, want an error that does not blame the event", err)
	}
	if err := wrong.Close(); err != nil {
		t.Error(err)
	}
}

func TestControlRestart(t *testing.T) {
	control := brokertest.Control(t, "amqp")
	topic := newTopic(t, amqp.Table{"x-queue-type": "quorum"})
	p := open(t, amqppub.Config{Heartbeat: time.Second})
	mustNot := func(events ...outbox.Event) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begun := time.Now()
		for _, err := range p.Publish(ctx, events) {
			if err == nil || rejected(err) {
				t.Errorf("without a broker: %v", err)
			}
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("Publish returned %v after it began, and 2 s were given", took)
		}
	}
	events := []outbox.Event{newEvent(topic, "k"), newEvent(topic, "k"), newEvent(topic, "k")}
	must(t, p, events[0])
	control("stop")
	mustNot(events[1])
	control("start")
	must(t, p, events[1])
	control("pause")
	many := []outbox.Event{events[2]} // more than a connection that nobody reads takes
	for _, key := range keys(60) {
		e := newEvent(topic, key)
		e.Payload = make([]byte, 1<<20)
		many = append(many, e)
	}
	mustNot(many...)
	control("resume")
	must(t, p, events[2])
	got := slices.DeleteFunc(firsts(ids(read(t, topic))), func(id uuid.UUID) bool { return !slices.Contains(ids(events), id) })
	if !slices.Equal(got, ids(events)) {
		t.Errorf("%v arrived, want %v", got, ids(events))
	}
}
