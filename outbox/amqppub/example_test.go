package amqppub_test

import (
	"fmt"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
)

// The publisher is for outbox.NewRelay. Nothing connects before it is used.
func Example() {
	p, err := amqppub.New(amqppub.Config{
		URL:      "amqps://shop:secret@rabbit:5671/",
		Format:   outbox.Format{Source: "https://example.com/shop"},
		Topology: amqppub.Check, // the exchanges are somebody else's business
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	fmt.Println("ready")
	// Output: ready
}
