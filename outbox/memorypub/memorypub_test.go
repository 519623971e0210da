package memorypub_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
)

func TestPublisher(t *testing.T) {
	outboxtest.TestPublisher(t, func(t *testing.T) outboxtest.Harness {
		b := memorypub.New(memorypub.Config{MaxPayload: 1 << 20, Topics: []string{"events"}})
		f := &outboxtest.Faulty{Publisher: b}
		return outboxtest.Harness{
			Open:     func(testing.TB) outbox.Publisher { return f },
			Topic:    func(testing.TB) string { return "events" },
			Events:   func(_ testing.TB, topic string) []outbox.Event { return b.Events(topic) },
			TooLarge: 1<<20 + 1, Unknown: "no such topic",
			Down: func(testing.TB) { f.Down() }, Up: func(testing.TB) { f.Up() },
		}
	})
}

func TestClear(t *testing.T) {
	b := memorypub.New(memorypub.Config{})
	b.Publish(t.Context(), []outbox.Event{{ID: uuid.New(), Topic: "a"}, {ID: uuid.New(), Topic: "b"}})
	if b.Len() != 2 || len(b.Events("a")) != 1 || len(b.Events("")) != 2 {
		t.Errorf("%v", b.Events(""))
	}
	b.Clear()
	if b.Len() != 0 {
		t.Errorf("%d events left", b.Len())
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if errs := b.Publish(t.Context(), []outbox.Event{{Topic: "a"}}); errs[0] == nil {
		t.Error("a closed broker takes events")
	}
}

// TestDiscard: what a program publishes for months does not fill its memory.
func TestDiscard(t *testing.T) {
	b := memorypub.New(memorypub.Config{Discard: true})
	for range 3 {
		b.Publish(t.Context(), []outbox.Event{{ID: uuid.New(), Topic: "a"}})
	}
	if b.Len() != 3 || len(b.Events("")) != 0 {
		t.Errorf("%d events arrived, and %d are kept", b.Len(), len(b.Events("")))
	}
}

func ExampleBroker() {
	b := memorypub.New(memorypub.Config{})
	b.Publish(context.Background(), []outbox.Event{{Topic: "orders.shipped", Key: "o-1"}})
	for _, e := range b.Events("orders.shipped") {
		fmt.Println(e.Topic, e.Key)
	}
	// Output: orders.shipped o-1
}
