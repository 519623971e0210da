package redispub_test

import (
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/redispub"
)

// The publisher is for outbox.NewRelay. Nothing connects before it is used.
func Example() {
	p, err := redispub.New(redispub.Config{
		Options: redis.UniversalOptions{Addrs: []string{"redis:6379"}},
		Format:  outbox.Format{Source: "https://example.com/shop"},
		Prefix:  "events:",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	fmt.Println("ready")
	// Output: ready
}
