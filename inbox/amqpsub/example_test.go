package amqpsub_test

import (
	"fmt"

	"github.com/pgsagaz/pgsagaz/inbox/amqpsub"
)

// The source is for inbox.NewConsumer. Nothing connects before it is used.
func Example() {
	s, err := amqpsub.New(amqpsub.Config{
		URL:          "amqps://mail:secret@rabbit:5671/",
		Queue:        "mail",
		Bindings:     []amqpsub.Binding{{Exchange: "orders", Key: "orders.*"}},
		SingleActive: true, // the order of keys holds
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	fmt.Println("ready")
	// Output: ready
}
