package kafkapub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
)

// maxMessage is what topics of these tests take, in bytes.
const maxMessage = 400 << 10

func TestNewRefuses(t *testing.T) {
	for says, cfg := range map[string]kafkapub.Config{
		"no brokers":   {},
		"host:port":    {Brokers: []string{"localhost"}},
		"negative":     {Brokers: []string{"localhost:9092"}, BatchBytes: -1},
		"UnknownTopic": {Brokers: []string{"localhost:9092"}, UnknownTopic: 7},
	} {
		if _, err := kafkapub.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

// Order of a key holds beside other failures: a topic takes what is not too large, and nothing that follows it.
func TestTooLargeIsFoundInABatch(t *testing.T) {
	broker := brokertest.Kafka(t)
	topic := newTopic(t, broker)
	p := open(t, kafkapub.Config{Brokers: []string{broker}, BatchBytes: 10 << 20}) // more than the topic takes at once
	var events []outbox.Event
	for i := range 200 {
		e := newEvent(topic, fmt.Sprintf("key %d", i%10))
		e.Payload = make([]byte, 10<<10)
		if i == 77 { // of key 7
			e.Payload = make([]byte, maxMessage+1)
		}
		events = append(events, e)
	}
	errs := p.Publish(t.Context(), events)
	for i, err := range errs {
		switch {
		case i == 77 && !errors.As(err, new(*outbox.RejectedError)):
			t.Errorf("the one that is too large: %v", err)
		case i > 77 && i%10 == 7 && !errors.Is(err, outbox.ErrHeld):
			t.Errorf("event %d, behind it: %v", i, err)
		case i != 77 && (i < 77 || i%10 != 7) && err != nil:
			t.Errorf("event %d: %v", i, err)
		}
	}
	if got := read(t, broker, topic); len(got) != 200-13 {
		t.Errorf("%d events arrived, want %d, each once", len(got), 200-13)
	}
}

// The answer is lost, the event is there: what is sent again is a duplicate in its place.
func TestLostAnswer(t *testing.T) {
	broker := brokertest.Kafka(t)
	topic := newTopic(t, broker)
	var network brokertest.Net
	p := open(t, kafkapub.Config{Brokers: []string{broker}, Dial: network.Dial})
	events := []outbox.Event{newEvent(topic, "k"), newEvent(topic, "k"), newEvent(topic, "k")}
	if err := p.Publish(t.Context(), events[:1])[0]; err != nil {
		t.Fatal(err)
	}
	network.Mute()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for i, err := range p.Publish(ctx, events[1:]) {
		if err == nil || errors.As(err, new(*outbox.RejectedError)) {
			t.Errorf("event %d without an answer: %v, want an error that does not blame it", i+1, err)
		}
	}
	network.Up()
	publishUntilDone(t, p, events[1:])
	got := read(t, broker, topic)
	want := []uuid.UUID{events[0].ID, events[1].ID, events[2].ID, events[1].ID, events[2].ID}
	if !slices.Equal(ids(got), want) {
		t.Errorf("%d events arrived: %v, want each of the two twice, in order", len(got), ids(got))
	}
}

// spy is a connection that keeps what is written to it.
type spy struct {
	net.Conn
	written *bytes.Buffer
}

func (s spy) Write(b []byte) (int, error) {
	s.written.Write(b)
	return s.Conn.Write(b)
}

// TestAllReplicasAnswer: what is asked of the broker is to answer when all replicas that are in sync have an event.
func TestAllReplicasAnswer(t *testing.T) {
	broker := brokertest.Kafka(t)
	topic := newTopic(t, broker)
	var mu sync.Mutex
	var spies []spy
	p := open(t, kafkapub.Config{Brokers: []string{broker}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		spies = append(spies, spy{conn, &bytes.Buffer{}})
		return spies[len(spies)-1], err
	}})
	publishUntilDone(t, p, []outbox.Event{newEvent(topic, "k")})
	mu.Lock()
	defer mu.Unlock()
	requests := 0
	for _, s := range spies {
		for s.written.Len() > 0 {
			_, _, _, request, err := protocol.ReadRequest(s.written)
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := request.(*produce.Request); ok {
				if requests++; r.Acks != int16(kafka.RequireAll) {
					t.Errorf("acks %d", r.Acks)
				}
			}
		}
	}
	if requests == 0 {
		t.Error("no request is seen: this tests nothing")
	}
}

func TestCutConnections(t *testing.T) {
	broker := brokertest.Kafka(t)
	topic := newTopic(t, broker)
	var network brokertest.Net
	p := open(t, kafkapub.Config{Brokers: []string{broker}, Dial: network.Dial})
	var want []uuid.UUID
	for i := range 30 {
		e := newEvent(topic, "k")
		want = append(want, e.ID)
		if i%5 == 0 {
			network.Cut()
		}
		publishUntilDone(t, p, []outbox.Event{e})
	}
	if got := firsts(ids(read(t, broker, topic))); !slices.Equal(got, want) {
		t.Errorf("the order is another than that of publishing:\n%v\n%v", got, want)
	}
}

func TestUnknownTopic(t *testing.T) {
	broker := brokertest.Kafka(t)
	name := brokertest.Name("made")
	e := newEvent(name, "k")
	behind := newEvent(name, "k")
	fails := open(t, kafkapub.Config{Brokers: []string{broker}, MetadataTTL: 200 * time.Millisecond})
	errs := fails.Publish(t.Context(), []outbox.Event{e, behind})
	if !errors.As(errs[0], new(*outbox.RejectedError)) || !strings.Contains(errs[0].Error(), name) || !errors.Is(errs[1], outbox.ErrHeld) {
		t.Errorf("Fail: %v", errs)
	}
	// Many of them cost no more time than one, and the events of a topic that is there go.
	good := newEvent(newTopic(t, broker), "another")
	many := []outbox.Event{good}
	for range 20 {
		many = append(many, newEvent(brokertest.Name("unknown"), ""))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for i, err := range fails.Publish(ctx, many) {
		if i == 0 && err != nil || i > 0 && !errors.As(err, new(*outbox.RejectedError)) {
			t.Errorf("event %d among many of unknown topics: %v", i, err)
		}
	}
	creates := open(t, kafkapub.Config{Brokers: []string{broker}, UnknownTopic: kafkapub.Create, Partitions: 3})
	publishUntilDone(t, creates, []outbox.Event{e, behind})
	if got := ids(read(t, broker, name)); !slices.Equal(got, []uuid.UUID{e.ID, behind.ID}) {
		t.Errorf("Create: %v arrived", got)
	}
	bad := newEvent("not a topic's name", "k")
	for _, p := range []*kafkapub.Publisher{fails, creates} {
		if err := p.Publish(t.Context(), []outbox.Event{bad})[0]; !errors.As(err, new(*outbox.RejectedError)) {
			t.Errorf("a name that cannot be a topic's: %v", err)
		}
	}
}

// The partition of a key is the one that Java's clients and librdkafka's murmur2_random choose.
func TestPartitionOfKeys(t *testing.T) {
	broker := brokertest.Kafka(t)
	topic := newTopic(t, broker)
	p := open(t, kafkapub.Config{Brokers: []string{broker}})
	var events []outbox.Event
	for i := range 40 {
		events = append(events, newEvent(topic, fmt.Sprintf("key-%d", i)), newEvent(topic, ""))
	}
	publishUntilDone(t, p, events)
	used := map[int]bool{}
	for _, m := range readRecords(t, broker, topic) {
		if len(m.Key) == 0 {
			used[m.Partition] = true
		} else if want := (kafka.Murmur2Balancer{}).Balance(kafka.Message{Key: m.Key}, 0, 1, 2, 3); m.Partition != want {
			t.Errorf("key %s is in partition %d, want %d", m.Key, m.Partition, want)
		}
	}
	if len(used) != 4 {
		t.Errorf("events without a key use partitions %v, want all four", used)
	}
}

func TestTLSAndPassword(t *testing.T) {
	u, config := brokertest.Secure(t, "KAFKA")
	topic := newTopic(t, brokertest.Kafka(t))
	password, _ := u.User.Password()
	scram256, err := scram.Mechanism(scram.SHA256, u.User.Username(), password)
	if err != nil {
		t.Fatal(err)
	}
	for _, mechanism := range []sasl.Mechanism{plain.Mechanism{Username: u.User.Username(), Password: password}, scram256} {
		p := open(t, kafkapub.Config{Brokers: []string{u.Host}, TLS: config, SASL: mechanism})
		publishUntilDone(t, p, []outbox.Event{newEvent(topic, "k")})
	}
	wrong := open(t, kafkapub.Config{Brokers: []string{u.Host}, TLS: config, SASL: plain.Mechanism{Username: "test", Password: "wrong"}})
	err = wrong.Publish(t.Context(), []outbox.Event{newEvent(topic, "k")})[0]
	if err == nil || errors.As(err, new(*outbox.RejectedError)) {
		t.Errorf("with a wrong password: %v, want an error that does not blame the event", err)
	}
}

// The broker itself goes and comes.
func TestControlRestart(t *testing.T) {
	broker := brokertest.Kafka(t)
	control := brokertest.Control(t, "kafka")
	topic := newTopic(t, broker)
	p := open(t, kafkapub.Config{Brokers: []string{broker}})
	before, after := newEvent(topic, "k"), newEvent(topic, "k")
	publishUntilDone(t, p, []outbox.Event{before})
	control("stop")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := p.Publish(ctx, []outbox.Event{after})[0]; err == nil || errors.As(err, new(*outbox.RejectedError)) {
		t.Errorf("without a broker: %v", err)
	}
	control("start")
	publishUntilDone(t, p, []outbox.Event{after})
	control("pause")
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	last := newEvent(topic, "k")
	if err := p.Publish(ctx, []outbox.Event{last})[0]; err == nil || errors.As(err, new(*outbox.RejectedError)) {
		t.Errorf("with a broker that hangs: %v", err)
	}
	control("resume")
	publishUntilDone(t, p, []outbox.Event{last})
	if got := firsts(ids(read(t, broker, topic))); !slices.Equal(got, []uuid.UUID{before.ID, after.ID, last.ID}) {
		t.Errorf("%v arrived", got)
	}
}
