package redispub_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/cloudevents"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/outbox/redispub"
)

var faults = flag.Duration("faults", 0, "for how long faults rage; 0: as the suite says")

// options of the real server, through network.
func options(t testing.TB, network *brokertest.Net) redis.UniversalOptions {
	t.Helper()
	o, err := redis.ParseURL(brokertest.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	return redis.UniversalOptions{Addrs: []string{o.Addr}, Username: o.Username, Password: o.Password, DB: o.DB, Dialer: network.Dial}
}

func open(t testing.TB, cfg redispub.Config) *redispub.Publisher {
	t.Helper()
	p, err := redispub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
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

func newEvent(topic, key string) outbox.Event {
	return outbox.Event{ID: uuid.Must(uuid.NewV7()), Topic: topic, Key: key, Type: "t", Payload: []byte("x"), CreatedAt: time.Now()}
}

func read(t testing.TB, stream string) []outbox.Event {
	t.Helper()
	entries, err := server(t).XRange(context.Background(), stream, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	var events []outbox.Event
	for _, entry := range entries {
		headers := map[string]string{}
		for name, value := range entry.Values {
			headers[name] = value.(string)
		}
		body := headers[cloudevents.DataField]
		delete(headers, cloudevents.DataField)
		e, err := outbox.Decode(headers, []byte(body))
		if err != nil {
			t.Fatalf("entry %s: %v", entry.ID, err)
		}
		e.Topic = stream
		events = append(events, e)
	}
	return events
}

func ids(events []outbox.Event) []uuid.UUID {
	var ids []uuid.UUID
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestPublisher(t *testing.T) {
	brokertest.Redis(t)
	for name, format := range map[string]outbox.Format{"binary": {}, "structured": {Structured: true}} {
		t.Run(name, func(t *testing.T) {
			outboxtest.TestPublisher(t, func(t *testing.T) outboxtest.Harness {
				network := &brokertest.Net{}
				wrong := newStream(t)
				if err := server(t).Set(t.Context(), wrong, "no stream", time.Hour).Err(); err != nil {
					t.Fatal(err)
				}
				return outboxtest.Harness{
					Open: func(t testing.TB) outbox.Publisher {
						p, err := redispub.New(redispub.Config{Options: options(t, network), Format: format, MaxBytes: 400 << 10})
						if err != nil {
							t.Fatal(err)
						}
						return p
					},
					Topic:  newStream,
					Events: read, Unknown: wrong, TooLarge: 400<<10 + 1, Faults: *faults,
					Down: func(testing.TB) { network.Down() }, Up: func(testing.TB) { network.Up() },
				}
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for says, cfg := range map[string]redispub.Config{
		"MaxLen is negative": {MaxLen: -1},
		"cluster":            {Replicas: 1, Options: redis.UniversalOptions{Addrs: []string{"a:1", "b:1"}}},
	} {
		if _, err := redispub.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

// Many batches of one call keep the order, and one that cannot be sent holds its key over their borders.
func TestBatches(t *testing.T) {
	stream := newStream(t)
	p := open(t, redispub.Config{Options: options(t, &brokertest.Net{}), BatchEvents: 7, BatchBytes: 5000, MaxBytes: 10_000})
	var events []outbox.Event
	for i := range 100 {
		e := newEvent(stream, fmt.Sprintf("key %d", i%4))
		e.Payload = make([]byte, i%13*100)
		switch i {
		case 21: // of key 1
			e.Payload = make([]byte, 10_001)
		case 42: // of key 2
			e.Headers = map[string]string{"data": "would be taken for the payload"}
		case 63: // of key 3
			e.Headers = map[string]string{}
			for n := range 4000 {
				e.Headers[fmt.Sprint("h", n)] = ""
			}
		}
		events = append(events, e)
	}
	var want []uuid.UUID
	for i, err := range p.Publish(t.Context(), events) {
		bad := map[int]int{1: 21, 2: 42, 3: 63}[i%4]
		switch {
		case bad == 0 || i < bad:
			want = append(want, events[i].ID)
			if err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		case i == bad && !errors.As(err, new(*outbox.RejectedError)):
			t.Errorf("event %d: %v, want it rejected", i, err)
		case i > bad && !errors.Is(err, outbox.ErrHeld):
			t.Errorf("event %d: %v, want it held", i, err)
		}
	}
	if got := ids(read(t, stream)); !slices.Equal(got, want) {
		t.Errorf("%d events arrived, want %d in their order", len(got), len(want))
	}
}

// A server without memory is nobody's fault, and nothing of a key comes after what it did not take.
func TestControlServerRefuses(t *testing.T) {
	brokertest.Control(t, "redis")
	c := server(t)
	stream := newStream(t)
	p := open(t, redispub.Config{Options: options(t, &brokertest.Net{})})
	events := []outbox.Event{newEvent(stream, "k"), newEvent(stream, "k")}
	before, err := c.ConfigGet(t.Context(), "maxmemory").Result()
	if err != nil {
		t.Fatal(err)
	}
	reset := func() {
		if err := c.ConfigSet(context.Background(), "maxmemory", before["maxmemory"]).Err(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(reset)
	if err := c.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for i, err := range p.Publish(t.Context(), events) {
		if err == nil || errors.As(err, new(*outbox.RejectedError)) || !strings.Contains(err.Error(), "OOM") && !errors.Is(err, outbox.ErrHeld) {
			t.Errorf("event %d: %v", i, err)
		}
	}
	reset()
	for i, err := range p.Publish(t.Context(), events) {
		if err != nil {
			t.Errorf("event %d, with memory: %v", i, err)
		}
	}
	if got := ids(read(t, stream)); !slices.Equal(got, ids(events)) {
		t.Errorf("%v arrived", got)
	}
}

func TestLostAnswer(t *testing.T) {
	stream := newStream(t)
	network := &brokertest.Net{}
	p := open(t, redispub.Config{Options: options(t, network)})
	events := []outbox.Event{newEvent(stream, "k"), newEvent(stream, "k"), newEvent(stream, "k")}
	if err := p.Publish(t.Context(), events[:1])[0]; err != nil {
		t.Fatal(err)
	}
	network.Mute()
	for i, err := range p.Publish(t.Context(), events[1:]) {
		if err == nil || errors.As(err, new(*outbox.RejectedError)) {
			t.Errorf("event %d without an answer: %v", i+1, err)
		}
	}
	network.Up()
	if err := errors.Join(p.Publish(t.Context(), events[1:])...); err != nil {
		t.Fatal(err)
	}
	got, want := ids(read(t, stream)), []uuid.UUID{events[0].ID, events[1].ID, events[2].ID, events[1].ID, events[2].ID}
	if !slices.Equal(got, want) {
		t.Errorf("%v arrived, want the two twice, in order", got)
	}
}

func TestMaxLen(t *testing.T) {
	stream := newStream(t)
	p := open(t, redispub.Config{Options: options(t, &brokertest.Net{}), MaxLen: 100})
	var events []outbox.Event
	for range 1000 {
		events = append(events, newEvent(stream, "k"))
	}
	if err := errors.Join(p.Publish(t.Context(), events)...); err != nil {
		t.Fatal(err)
	}
	if n := len(read(t, stream)); n < 100 || n > 300 {
		t.Errorf("%d entries are left of 1000, want about 100", n)
	}
}

// This server has no replica.
func TestReplicasAreWaitedFor(t *testing.T) {
	stream := newStream(t)
	p := open(t, redispub.Config{Options: options(t, &brokertest.Net{}), Replicas: 1, Timeout: 300 * time.Millisecond})
	err := p.Publish(t.Context(), []outbox.Event{newEvent(stream, "k")})[0]
	if err == nil || errors.As(err, new(*outbox.RejectedError)) || !strings.Contains(err.Error(), "0 of 1 replicas") {
		t.Errorf("%v, want one that says that no replica has it", err)
	}
}

func TestPrefix(t *testing.T) {
	stream := newStream(t)
	p := open(t, redispub.Config{Options: options(t, &brokertest.Net{}), Prefix: stream[:5]})
	if err := p.Publish(t.Context(), []outbox.Event{newEvent(stream[5:], "k")})[0]; err != nil {
		t.Fatal(err)
	}
	if n := len(read(t, stream)); n != 1 {
		t.Errorf("%d entries in %s", n, stream)
	}
}

func TestTLSAndPassword(t *testing.T) {
	u, config := brokertest.Secure(t, "REDIS")
	stream := newStream(t)
	password, _ := u.User.Password()
	good := redis.UniversalOptions{Addrs: []string{u.Host}, TLSConfig: config, Username: u.User.Username(), Password: password}
	if err := open(t, redispub.Config{Options: good}).Publish(t.Context(), []outbox.Event{newEvent(stream, "k")})[0]; err != nil {
		t.Error(err)
	}
	wrong := good
	wrong.Password = "wrong"
	err := open(t, redispub.Config{Options: wrong}).Publish(t.Context(), []outbox.Event{newEvent(stream, "k")})[0]
	if err == nil || errors.As(err, new(*outbox.RejectedError)) {
		t.Errorf("with a wrong password: %v, want an error that does not blame the event", err)
	}
}

func TestControlRestart(t *testing.T) {
	control := brokertest.Control(t, "redis")
	stream := newStream(t)
	p := open(t, redispub.Config{Options: options(t, &brokertest.Net{}), Timeout: time.Second})
	events := []outbox.Event{newEvent(stream, "k"), newEvent(stream, "k"), newEvent(stream, "k")}
	must := func(e outbox.Event) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := p.Publish(t.Context(), []outbox.Event{e})[0]
			if err == nil {
				return
			}
			if errors.As(err, new(*outbox.RejectedError)) || time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	mustNot := func(e outbox.Event) {
		t.Helper()
		if err := p.Publish(t.Context(), []outbox.Event{e})[0]; err == nil || errors.As(err, new(*outbox.RejectedError)) {
			t.Errorf("without a server: %v", err)
		}
	}
	must(events[0])
	control("stop")
	mustNot(events[1])
	control("start")
	must(events[1])
	control("pause")
	mustNot(events[2])
	control("resume")
	must(events[2])
	var first []uuid.UUID
	for _, id := range ids(read(t, stream)) {
		if !slices.Contains(first, id) {
			first = append(first, id)
		}
	}
	if !slices.Equal(first, ids(events)) {
		t.Errorf("%v arrived", first)
	}
}
