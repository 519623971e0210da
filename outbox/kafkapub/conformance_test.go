package kafkapub_test

import (
	"flag"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
)

var faults = flag.Duration("faults", 0, "for how long faults rage; 0: as the suite says")

func TestPublisher(t *testing.T) {
	broker := brokertest.Kafka(t)
	for name, format := range map[string]outbox.Format{"binary": {}, "structured": {Structured: true}} {
		t.Run(name, func(t *testing.T) {
			outboxtest.TestPublisher(t, func(t *testing.T) outboxtest.Harness {
				network := &brokertest.Net{}
				return outboxtest.Harness{
					Open: func(t testing.TB) outbox.Publisher {
						p, err := kafkapub.New(kafkapub.Config{Brokers: []string{broker}, Format: format, Dial: network.Dial, MetadataTTL: 500 * time.Millisecond})
						if err != nil {
							t.Fatal(err)
						}
						return p
					},
					Topic:   func(t testing.TB) string { return newTopic(t, broker) },
					Events:  func(t testing.TB, topic string) []outbox.Event { return read(t, broker, topic) },
					Unknown: brokertest.Name("unknown"), TooLarge: maxMessage + 1, Faults: *faults,
					Down: func(testing.TB) { network.Down() }, Up: func(testing.TB) { network.Up() },
				}
			})
		})
	}
}
