package redispub

import (
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// Config of a [Publisher]. The zero value of each field is its default.
type Config struct {
	// Options of the connections: Addrs (default 127.0.0.1:6379), Username, Password, TLSConfig, Dialer, and MasterName for
	// Sentinel; several Addrs without it are a cluster. MaxRetries, DialerRetries and ContextTimeoutEnabled are set by New.
	Options redis.UniversalOptions
	// Format of the entries.
	Format outbox.Format
	// Prefix of the streams' names, before the topic.
	Prefix string

	// MaxLen trims a stream to about that many entries as it grows, read or unread. 0: never.
	MaxLen int64
	// Replicas is how many replicas must have an event before it is acknowledged. 0: none. Not with a cluster.
	Replicas int

	// BatchBytes and BatchEvents bound what is added at once: the server serves nobody else meanwhile. A single event may be
	// larger. 0: 1 MB and 100.
	BatchBytes, BatchEvents int
	// MaxBytes is the largest payload. A larger one is rejected. 0: 512 MB, which is Redis's own limit (proto-max-bulk-len).
	MaxBytes int
	// Timeout of one request. 0: 5 s.
	Timeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	for name, n := range map[string]int64{"MaxLen": c.MaxLen, "Replicas": int64(c.Replicas), "BatchBytes": int64(c.BatchBytes),
		"BatchEvents": int64(c.BatchEvents), "MaxBytes": int64(c.MaxBytes), "Timeout": int64(c.Timeout)} {
		if n < 0 {
			return c, fmt.Errorf("redispub: %s is negative", name)
		}
	}
	if c.Replicas > 0 && len(c.Options.Addrs) > 1 && c.Options.MasterName == "" {
		return c, errors.New("redispub: Replicas cannot be waited for in a cluster")
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 1_000_000
	}
	if c.BatchEvents == 0 {
		c.BatchEvents = 100
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 512 << 20
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	c.Options.MaxRetries, c.Options.DialerRetries = -1, 1
	c.Options.ContextTimeoutEnabled = true
	return c, nil
}
