package kafkasub_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/kafkasub"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// offsetWorld is a topic of one partition, and offsets in Postgres of a group that reads it.
type offsetWorld struct {
	*testing.T
	topic, group string
	offsets      *inbox.Offsets
}

func newOffsetWorld(t *testing.T) offsetWorld {
	brokertest.Kafka(t)
	w := offsetWorld{t, brokertest.Name("offsets"), brokertest.Name("group"), inbox.NewOffsets(sqltest.New(t), "mailer")}
	newTopic(t, w.topic, 1)
	return w
}

func (w offsetWorld) open() *kafkasub.Source {
	return open(w, kafkasub.Config{Group: w.group, Topics: []string{w.topic}, Offsets: w.offsets})
}

// send publishes messages from to to.
func (w offsetWorld) send(from, to int) {
	var messages []inbox.Message
	for n := from; n <= to; n++ {
		messages = append(messages, inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Key: "k", Type: "t", Payload: fmt.Append(nil, n)})
	}
	send(w, w.topic, messages...)
}

// fetch expects the messages from to to, and nothing else before them.
func (w offsetWorld) fetch(s *kafkasub.Source, from, to int) (all []inbox.Delivery) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	for n := from; n <= to; {
		deliveries, err := s.Fetch(ctx, to-n+1)
		if err != nil && ctx.Err() != nil {
			w.Fatalf("message %d does not come: %v", n, err)
		}
		for _, d := range deliveries {
			if got := string(d.Message.Payload); got != fmt.Sprint(n) {
				w.Fatalf("message %s came, want %d", got, n)
			}
			all = append(all, d)
			n++
		}
	}
	return all
}

func (w offsetWorld) ack(s *kafkasub.Source, deliveries []inbox.Delivery) {
	w.Helper()
	if err := s.Ack(w.Context(), deliveries); err != nil {
		w.Fatal(err)
	}
}

func (w offsetWorld) close(s *kafkasub.Source) {
	w.Helper()
	if err := s.Close(); err != nil {
		w.Error(err)
	}
}

// wipe makes Kafka forget the group, and with it its offsets.
func (w offsetWorld) wipe() {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var err error
		do(w, func(c *kafka.Client) error {
			answer, asked := c.DeleteGroups(w.Context(), &kafka.DeleteGroupsRequest{GroupIDs: []string{w.group}})
			if err = asked; err == nil {
				err = answer.Errors[w.group]
			}
			return nil
		})
		if err == nil {
			return
		}
		if time.Now().After(deadline) { // until then a member may still be leaving
			w.Fatal(err)
		}
	}
}

// TestOffsetsInPostgres: a restart goes on where the acks ended, whatever became of the group's own offsets.
func TestOffsetsInPostgres(t *testing.T) {
	t.Parallel()
	w := newOffsetWorld(t)
	s := w.open()
	w.send(0, 9)
	got := w.fetch(s, 0, 9)
	w.ack(s, got[:4])
	w.close(s)
	w.wipe()
	s = w.open()
	got = w.fetch(s, 4, 9)
	w.ack(s, got)
	w.close(s)
	w.wipe()
	s = w.open()
	w.send(10, 12)
	w.fetch(s, 10, 12)
	w.close(s)
}

// TestOffsetsInPostgresAfterARebalance: each generation begins where Postgres says, and not where Kafka does.
func TestOffsetsInPostgresAfterARebalance(t *testing.T) {
	t.Parallel()
	w := newOffsetWorld(t)
	s := w.open()
	w.send(0, 9)
	w.ack(s, w.fetch(s, 0, 2)) // Kafka knows of these
	if err := w.offsets.Save(t.Context(), inbox.Offset{Topic: w.topic, Partition: 0, Next: 6}); err != nil {
		t.Fatal(err)
	}
	other := w.open() // the partition is one's or the other's, in a new generation
	fetched := make(chan string, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	for _, member := range []*kafkasub.Source{s, other} {
		go func() {
			defer func() { ended <- struct{}{} }()
			for ctx.Err() == nil {
				deliveries, _ := member.Fetch(ctx, 1) // the old generation may still deliver
				if len(deliveries) > 0 && string(deliveries[0].Message.Payload) >= "6" {
					fetched <- string(deliveries[0].Message.Payload)
					return
				}
				if len(deliveries) > 0 {
					select {
					case <-deliveries[0].Revoked:
					case <-ctx.Done():
					}
				}
			}
		}()
	}
	select {
	case n := <-fetched:
		if n != "6" {
			t.Errorf("the new generation begins with message %s, want 6", n)
		}
	case <-ctx.Done():
		t.Error("nothing of the new generation came")
	}
	cancel()
	<-ended
	<-ended
	w.close(s)
	w.close(other)
}

// TestOffsetsInPostgresOfATopicMadeAnew: an offset behind the end of the log is set back, and counts from there.
func TestOffsetsInPostgresOfATopicMadeAnew(t *testing.T) {
	t.Parallel()
	w := newOffsetWorld(t)
	if err := w.offsets.Save(t.Context(), inbox.Offset{Topic: w.topic, Partition: 0, Next: 1000}); err != nil {
		t.Fatal(err)
	}
	w.send(0, 2)
	s := w.open()
	w.ack(s, w.fetch(s, 0, 2))
	w.close(s)
	if all, err := w.offsets.Load(t.Context()); err != nil || len(all) != 1 || all[0].Next != 3 {
		t.Errorf("offsets %v, %v; want 3", all, err)
	}
}

// TestATopicIsMadeAnewUnderAConsumer: what it had fetched before is revoked, and acks of that, however late, do not count for the new
// topic. If they did, a consumer that begins again would miss messages.
func TestATopicIsMadeAnewUnderAConsumer(t *testing.T) {
	t.Parallel()
	for name, inPostgres := range map[string]bool{"Kafka": false, "Postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newOffsetWorld(t)
			again := func() *kafkasub.Source {
				cfg := kafkasub.Config{Group: w.group, Topics: []string{w.topic}}
				if inPostgres {
					cfg.Offsets = w.offsets
				}
				return open(w, cfg)
			}
			counted := func() int64 {
				t.Helper()
				if !inPostgres {
					return max(0, w.committed())
				}
				all, err := w.offsets.Load(t.Context())
				if err != nil || len(all) != 1 {
					t.Fatal(all, err)
				}
				return all[0].Next
			}
			s := again()
			w.send(0, 9)
			old := w.fetch(s, 0, 9)
			w.ack(s, old[:5])
			if n := counted(); n != 5 {
				t.Fatalf("the offset is %d, want 5", n)
			}
			madeAnew(t, w.topic)
			w.send(20, 22)
			got := w.fetch(s, 20, 22)
			select {
			case <-old[9].Revoked:
			default:
				t.Error("what was fetched of the topic before is not revoked")
			}
			w.ack(s, old[5:])
			if n := counted(); n != 0 {
				t.Errorf("the offset is %d after acks of the topic before, want 0", n)
			}
			w.ack(s, got[:2])
			if n := counted(); n != 2 {
				t.Errorf("the offset is %d, want 2", n)
			}
			w.close(s)
			s = again()
			w.send(23, 23)
			w.fetch(s, 22, 23)
			w.close(s)
		})
	}
}

// committed is what Kafka knows of the group's offset; below zero: nothing.
func (w offsetWorld) committed() (offset int64) {
	w.Helper()
	do(w, func(c *kafka.Client) error {
		answer, err := c.OffsetFetch(w.Context(), &kafka.OffsetFetchRequest{GroupID: w.group, Topics: map[string][]int{w.topic: {0}}})
		if err == nil {
			err = answer.Error
		}
		if err == nil {
			offset = answer.Topics[w.topic][0].CommittedOffset
		}
		return err
	})
	return offset
}

// TestNewestIsAPlace: a group that begins with the newest does so once. What it was given and has not acked comes again after a rebalance, though no offset
// was ever committed by an ack.
func TestNewestIsAPlace(t *testing.T) {
	t.Parallel()
	for name, inPostgres := range map[string]bool{"Kafka": false, "Postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newOffsetWorld(t)
			again := func() *kafkasub.Source {
				cfg := kafkasub.Config{Group: w.group, Topics: []string{w.topic}, Newest: true}
				if inPostgres {
					cfg.Offsets = w.offsets
				}
				return open(w, cfg)
			}
			w.send(0, 2)
			s := again()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for w.committed() != 3 {
				waiting, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				some, err := s.Fetch(waiting, 1)
				cancel()
				if len(some) > 0 || ctx.Err() != nil {
					t.Fatalf("%v, %v; the group's offset is %d, want 3 and nothing older", some, err, w.committed())
				}
			}
			w.send(3, 4)
			w.fetch(s, 3, 4)
			w.close(s)
			s = again()
			w.ack(s, w.fetch(s, 3, 4))
			w.close(s)
		})
	}
}

// TestAResetIsHeeded: an operator sets offsets in Postgres back under a running consumer, which reads on from there.
func TestAResetIsHeeded(t *testing.T) {
	t.Parallel()
	w := newOffsetWorld(t)
	s := w.open()
	w.send(0, 4)
	got := w.fetch(s, 0, 4)
	w.ack(s, got[:4])
	all, err := w.offsets.Load(t.Context())
	if err != nil || len(all) != 1 || all[0].Next != 4 {
		t.Fatal(all, err)
	}
	all[0].Next = 2
	if err := w.offsets.Reset(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	w.ack(s, got[4:])
	w.ack(s, w.fetch(s, 2, 4))
	w.close(s)
	if all, err = w.offsets.Load(t.Context()); err != nil || all[0].Next != 5 {
		t.Errorf("%v, %v; want offset 5", all, err)
	}
}

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }
