package kafkasub

import (
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
)

// A record that is no CloudEvent is the same one when it comes again, and another one when its topic was made anew.
func TestPlaces(t *testing.T) {
	g, at := &generation{}, time.UnixMilli(1_700_000_000_000)
	id := func(written time.Time) string {
		p := &partition{topic: "orders", id: 3}
		return g.deliver(p, kafka.Message{Topic: "orders", Partition: 3, Offset: 7, Value: []byte("anything"), Time: written}).Message.ID
	}
	if got, want := id(at), "orders/3/7@1700000000000"; got != want {
		t.Errorf("the id is %s, want %s", got, want)
	}
	if first, second := id(at), id(at); first != second {
		t.Errorf("the id is %s, and %s when it comes again", first, second)
	}
	if id(at) == id(at.Add(time.Hour)) {
		t.Error("the id does not go by the time")
	}
}
