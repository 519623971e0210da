package kafkapub_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
)

func open(t testing.TB, cfg kafkapub.Config) *kafkapub.Publisher {
	t.Helper()
	p, err := kafkapub.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func newEvent(topic, key string) outbox.Event {
	return outbox.Event{ID: uuid.Must(uuid.NewV7()), Topic: topic, Key: key, Type: "t", Payload: []byte("x"), CreatedAt: time.Now()}
}

// publishUntilDone publishes as the relay does: again, from what was not acknowledged on.
func publishUntilDone(t testing.TB, p outbox.Publisher, events []outbox.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(events) > 0 {
		var left []outbox.Event
		for i, err := range p.Publish(ctx, events) {
			if errors.As(err, new(*outbox.RejectedError)) || err != nil && ctx.Err() != nil {
				t.Fatalf("event %s: %v", events[i].ID, err)
			}
			if err != nil {
				left = append(left, events[i])
			}
		}
		if events = left; len(left) > 0 {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// newTopic makes one with four partitions, ready to be published to.
func newTopic(t testing.TB, broker string) string {
	t.Helper()
	name := brokertest.Name("test")
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(broker), Transport: transport, Timeout: 10 * time.Second}
	answer, err := client.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: name, NumPartitions: 4, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "max.message.bytes", ConfigValue: "409600"}},
	}}})
	if err == nil {
		err = answer.Errors[name]
	}
	if err != nil {
		t.Fatal(err)
	}
	for partition := range 4 { // the broker says that the topic is there some time before it serves it
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			c, err := kafka.DialLeader(t.Context(), "tcp", broker, name, partition)
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_, err = c.ReadLastOffset()
				_ = c.Close()
			}
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	return name
}

// readRecords reads all of a topic, partition by partition. A broker that has just come back does not serve them all
// at once.
func readRecords(t testing.TB, broker, topic string) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		records, err := tryToReadRecords(ctx, broker, topic)
		if err == nil {
			return records
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func tryToReadRecords(ctx context.Context, broker, topic string) ([]kafka.Message, error) {
	partitions, err := kafka.DefaultDialer.LookupPartitions(ctx, "tcp", broker, topic)
	if err != nil {
		return nil, err
	}
	var records []kafka.Message
	for _, partition := range partitions {
		of, err := readPartition(ctx, broker, partition)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", partition.ID, err)
		}
		records = append(records, of...)
	}
	return records, nil
}

func readPartition(ctx context.Context, broker string, partition kafka.Partition) (records []kafka.Message, err error) {
	c, err := kafka.DialPartition(ctx, "tcp", broker, partition)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	last, err := c.ReadLastOffset()
	if err != nil {
		return nil, err
	}
	if _, err := c.Seek(0, kafka.SeekAbsolute); err != nil {
		return nil, err
	}
	for next := int64(0); next < last; {
		batch := c.ReadBatch(1, 10<<20)
		for {
			m, err := batch.ReadMessage()
			if err != nil {
				break
			}
			records = append(records, m)
			next = m.Offset + 1
		}
		if err := batch.Close(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
	}
	return records, nil
}

func read(t testing.TB, broker, topic string) []outbox.Event {
	t.Helper()
	var events []outbox.Event
	for _, m := range readRecords(t, broker, topic) {
		headers := map[string]string{}
		for _, h := range m.Headers {
			headers[h.Key] = string(h.Value)
		}
		e, err := outbox.Decode(headers, m.Value)
		if err != nil {
			t.Fatalf("offset %d: %v", m.Offset, err)
		}
		if string(m.Key) != e.Key {
			t.Fatalf("key %q, event's key %q", m.Key, e.Key)
		}
		e.Topic = m.Topic
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

// firsts are the first occurrences.
func firsts(ids []uuid.UUID) []uuid.UUID {
	seen := map[uuid.UUID]bool{}
	var first []uuid.UUID
	for _, id := range ids {
		if !seen[id] {
			first = append(first, id)
		}
		seen[id] = true
	}
	return first
}
