package redissub_test

import (
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/inbox/redissub"
)

// The source is for inbox.NewConsumer. Nothing connects before it is used.
func Example() {
	s, err := redissub.New(redissub.Config{
		Options:  redis.UniversalOptions{Addrs: []string{"redis:6379"}},
		Group:    "mail",
		Consumer: "mail-0", // the same after a restart
		Prefix:   "events:",
		Topics:   []string{"orders"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	fmt.Println("ready")
	// Output: ready
}
