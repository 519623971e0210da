package kafkasub_test

import (
	"fmt"

	"github.com/pgsagaz/pgsagaz/inbox/kafkasub"
)

// The source is for inbox.NewConsumer. Nothing connects before it is used.
func Example() {
	s, err := kafkasub.New(kafkasub.Config{
		Brokers: []string{"kafka-1:9092", "kafka-2:9092"},
		Group:   "mail",
		Topics:  []string{"orders.shipped", "orders.cancelled"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	fmt.Println("ready")
	// Output: ready
}
