package kafkapub_test

import (
	"fmt"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
)

// The publisher is for outbox.NewRelay. Nothing connects before it is used.
func Example() {
	p, err := kafkapub.New(kafkapub.Config{
		Brokers:      []string{"kafka-1:9092", "kafka-2:9092"},
		Format:       outbox.Format{Source: "https://example.com/shop"},
		UnknownTopic: kafkapub.Create,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	fmt.Println("ready")
	// Output: ready
}
