package redissub

import (
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// Config of a [Source]. The zero value of each field but Group and Topics is its default.
type Config struct {
	// Options of the connections, as for redispub. In a cluster all streams of a source must lie in one slot. MaxRetries,
	// DialerRetries, PoolSize, OnConnect and ContextTimeoutEnabled are set by New.
	Options redis.UniversalOptions
	Group   string
	Topics  []string // the streams are named Prefix + topic
	Prefix  string
	// Consumer is this one's name in the group; no two that run may have the same. "": made anew.
	Consumer string
	// Newest: a new group begins with what comes after it was made. false: with the oldest entry.
	Newest bool

	// ClaimAfter is how long nobody may touch an entry before another consumer takes it over. 0: 30 s.
	ClaimAfter time.Duration
	// Block is how long a read waits for new entries; Close waits for its end. 0: 500 ms.
	Block time.Duration
	// Timeout of one request. 0: 5 s.
	Timeout time.Duration
	Logger  *slog.Logger // nil: nothing is logged
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Group == "":
		return c, errors.New("redissub: no group")
	case len(c.Topics) == 0:
		return c, errors.New("redissub: no topics")
	case c.ClaimAfter < 0 || c.Block < 0 || c.Timeout < 0:
		return c, errors.New("redissub: a setting is negative")
	}
	if c.Consumer == "" {
		c.Consumer = uuid.NewString()
	}
	if c.ClaimAfter == 0 {
		c.ClaimAfter = 30 * time.Second
	}
	if c.Block == 0 {
		c.Block = 500 * time.Millisecond
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Options.MaxRetries, c.Options.DialerRetries = -1, 1
	c.Options.ContextTimeoutEnabled = true
	return c, nil
}
