package kafkasub_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl/plain"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/inboxtest"
	"github.com/pgsagaz/pgsagaz/inbox/kafkasub"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
)

// do runs a request on a client of its own.
func do(t testing.TB, f func(c *kafka.Client) error) {
	t.Helper()
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	if err := f(&kafka.Client{Addr: kafka.TCP(brokertest.Kafka(t)), Transport: transport, Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
}

func newTopic(t testing.TB, name string, partitions int) {
	t.Helper()
	do(t, func(c *kafka.Client) error {
		answer, err := c.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: name, NumPartitions: partitions, ReplicationFactor: 1}}})
		if err != nil {
			return err
		}
		return answer.Errors[name]
	})
}

// produce puts a message into partition 0 as it is.
func produce(t testing.TB, topic string, m kafka.Message) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		r := kafka.Record{Value: kafka.NewBytes(m.Value), Headers: m.Headers} // an attempt reads it up
		if m.Key != nil {
			r.Key = kafka.NewBytes(m.Key)
		}
		var err error
		do(t, func(c *kafka.Client) error {
			var answer *kafka.ProduceResponse
			if answer, err = c.Produce(t.Context(), &kafka.ProduceRequest{Topic: topic, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(r)}); err == nil {
				err = answer.Error
			}
			return nil
		})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// send publishes messages as the outbox does.
func send(t testing.TB, topic string, messages ...inbox.Message) {
	t.Helper()
	p, err := kafkapub.New(kafkapub.Config{Brokers: []string{brokertest.Kafka(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	events := make([]outbox.Event, len(messages))
	for i, m := range messages {
		events[i] = outbox.Event{ID: uuid.MustParse(m.ID), Topic: topic, Key: m.Key, Type: m.Type, Payload: m.Payload, Headers: m.Headers,
			TraceParent: m.TraceParent, CreatedAt: time.Now()}
	}
	for deadline := time.Now().Add(30 * time.Second); len(events) > 0; time.Sleep(20 * time.Millisecond) {
		var left []outbox.Event
		for i, err := range p.Publish(t.Context(), events) {
			if err != nil {
				left = append(left, events[i])
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
		}
		events = left
	}
}

func open(t testing.TB, cfg kafkasub.Config) *kafkasub.Source {
	t.Helper()
	if cfg.Brokers == nil {
		cfg.Brokers = []string{brokertest.Kafka(t)}
	}
	cfg.SessionTimeout, cfg.Heartbeat = 6*time.Second, 300*time.Millisecond // Kafka takes no shorter session, unless it is told to
	s, err := kafkasub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSource(t *testing.T) {
	brokertest.Kafka(t)
	inboxtest.TestSource(t, func(t *testing.T) inboxtest.Harness {
		topic, group := brokertest.Name("test"), brokertest.Name("group")
		newTopic(t, topic, 4)
		networks := &brokertest.Networks{}
		return inboxtest.Harness{
			Topic: topic,
			Open: func(t testing.TB) inbox.Source {
				network := &brokertest.Net{}
				s := open(t, kafkasub.Config{Group: group, Topics: []string{topic}, Dial: network.Dial})
				networks.Keep(s, network)
				return s
			},
			Send: func(t testing.TB, messages ...inbox.Message) { send(t, topic, messages...) },
			Kill: func(_ testing.TB, s inbox.Source) { networks.Down(s) },
			Cut:  func(testing.TB) { networks.Cut() },
			Spoil: func(t testing.TB, payload []byte) {
				produce(t, topic, kafka.Message{Value: payload, Headers: []kafka.Header{{Key: "ce_specversion", Value: []byte("1.0")}}})
			},
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := kafkasub.Config{Brokers: []string{"localhost:9092"}, Group: "g", Topics: []string{"t"}}
	for says, change := range map[string]func(*kafkasub.Config){
		"no brokers": func(c *kafkasub.Config) { c.Brokers = nil },
		"no group":   func(c *kafkasub.Config) { c.Group = "" },
		"no topics":  func(c *kafkasub.Config) { c.Topics = nil },
		"host:port":  func(c *kafkasub.Config) { c.Brokers = []string{"localhost"} },
		"negative":   func(c *kafkasub.Config) { c.Timeout = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := kafkasub.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want an error that says %q", err, says)
		}
	}
}

// fetchOne waits for the next delivery.
// A record that nobody made for us has its place for an id, and sagaz's envelope has its own.
func TestForeignRecords(t *testing.T) {
	topic := brokertest.Name("test")
	newTopic(t, topic, 1)
	produce(t, topic, kafka.Message{Key: []byte("k"), Value: []byte("anything"), Headers: []kafka.Header{{Key: "A", Value: []byte("b")}}})
	produce(t, topic, kafka.Message{Value: []byte(`{"event_id":"8a7c","aggregate_id":"o-1","event_type":"OrderCreated","payload":{"a":1}}`)})
	s := open(t, kafkasub.Config{Group: brokertest.Name("group"), Topics: []string{topic}})
	defer s.Close()
	plain, sagaz := inboxtest.FetchOne(t, s), inboxtest.FetchOne(t, s)
	if m := plain.Message; plain.Err != nil || !strings.HasPrefix(m.ID, fmt.Sprintf("%s/0/0@1", topic)) || m.Key != "k" || string(m.Payload) != "anything" || m.Headers["a"] != "b" || m.Time.IsZero() {
		t.Errorf("%+v", plain)
	}
	if m := sagaz.Message; sagaz.Err != nil || m.ID != "8a7c" || m.Source != "sagaz" || m.Type != "OrderCreated" || string(m.Payload) != `{"a":1}` || m.Key != "o-1" {
		t.Errorf("%+v", sagaz)
	}
}

// After a rebalance the deliveries of before are revoked, and their acks move nothing.
func TestStaleGeneration(t *testing.T) {
	topic, group := brokertest.Name("test"), brokertest.Name("group")
	newTopic(t, topic, 1)
	var sent []inbox.Message
	for range 10 {
		sent = append(sent, inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Type: "t"})
	}
	send(t, topic, sent...)
	first := open(t, kafkasub.Config{Group: group, Topics: []string{topic}})
	var old []inbox.Delivery
	for range 10 {
		old = append(old, inboxtest.FetchOne(t, first))
	}
	second := open(t, kafkasub.Config{Group: group, Topics: []string{topic}}) // its coming makes a new generation
	select {
	case <-old[0].Revoked:
	case <-time.After(30 * time.Second):
		t.Fatal("the deliveries are not revoked")
	}
	if err := first.Ack(t.Context(), old); err != nil {
		t.Errorf("an ack of the generation before: %v, want it passed over", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if d := inboxtest.FetchOne(t, second); d.Message.ID != sent[0].ID {
		t.Errorf("message %s is delivered first, want all of them again", d.Message.ID)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// What retention has deleted is told of, and the rest is read.
func TestDeletedRecords(t *testing.T) {
	topic, group := brokertest.Name("test"), brokertest.Name("group")
	newTopic(t, topic, 1)
	for i := range 10 {
		produce(t, topic, kafka.Message{Value: fmt.Append(nil, i)})
	}
	s := open(t, kafkasub.Config{Group: group, Topics: []string{topic}})
	d := inboxtest.FetchOne(t, s)
	if err := errors.Join(s.Ack(t.Context(), []inbox.Delivery{d}), s.Close()); err != nil {
		t.Fatal(err)
	}
	// The topic is made anew, and is shorter than what was read.
	madeAnew(t, topic)
	var log lockedBuilder
	commitOffset(t, group, topic, 7)
	produce(t, topic, kafka.Message{Value: []byte("new")})
	s = open(t, kafkasub.Config{Group: group, Topics: []string{topic}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer s.Close()
	if d := inboxtest.FetchOne(t, s); string(d.Message.Payload) != "new" {
		t.Errorf("%s is delivered", d.Message.Payload)
	}
	if !strings.Contains(log.String(), "read again from its beginning") {
		t.Errorf("the log says nothing of it: %s", log.String())
	}
}

// madeAnew deletes a topic, and makes an empty one of its name.
func madeAnew(t testing.TB, topic string) {
	t.Helper()
	do(t, func(c *kafka.Client) error {
		answer, err := c.DeleteTopics(t.Context(), &kafka.DeleteTopicsRequest{Topics: []string{topic}})
		if err != nil {
			return err
		}
		return answer.Errors[topic]
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var err error
		do(t, func(c *kafka.Client) error {
			answer, e := c.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 1, ReplicationFactor: 1}}})
			if err = e; err == nil {
				err = answer.Errors[topic]
			}
			return nil
		})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func commitOffset(t testing.TB, group, topic string, offset int64) {
	t.Helper()
	do(t, func(c *kafka.Client) error {
		answer, err := c.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{GroupID: group, GenerationID: -1,
			Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: 0, Offset: offset}}}})
		if err != nil {
			return err
		}
		return answer.Topics[topic][0].Error
	})
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTLSAndPassword(t *testing.T) {
	u, config := brokertest.Secure(t, "KAFKA")
	topic := brokertest.Name("test")
	newTopic(t, topic, 1)
	produce(t, topic, kafka.Message{Value: []byte("x")})
	password, _ := u.User.Password()
	s := open(t, kafkasub.Config{Brokers: []string{u.Host}, Group: brokertest.Name("group"), Topics: []string{topic}, TLS: config,
		SASL: plain.Mechanism{Username: u.User.Username(), Password: password}})
	if d := inboxtest.FetchOne(t, s); string(d.Message.Payload) != "x" {
		t.Errorf("%+v", d)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestControlRestart(t *testing.T) {
	control := brokertest.Control(t, "kafka")
	topic := brokertest.Name("test")
	newTopic(t, topic, 2)
	s := open(t, kafkasub.Config{Group: brokertest.Name("group"), Topics: []string{topic}})
	defer s.Close()
	before := inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Type: "t"}
	send(t, topic, before)
	if d := inboxtest.FetchOne(t, s); d.Message.ID != before.ID {
		t.Errorf("%+v", d)
	} else if err := s.Ack(t.Context(), []inbox.Delivery{d}); err != nil {
		t.Error(err)
	}
	control("restart")
	after := inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Type: "t"}
	send(t, topic, after)
	for {
		if d := inboxtest.FetchOne(t, s); d.Message.ID == after.ID {
			break
		}
	}
}
