package kafkasub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// Offsets are where a group's offsets are kept, as [inbox.Offsets] does.
type Offsets interface {
	Load(ctx context.Context) ([]inbox.Offset, error)
	// Save moves offsets forward, and none back. An error that is [inbox.ErrReset] has them loaded again.
	Save(ctx context.Context, offsets ...inbox.Offset) error
	// Reset sets the offset of a partition whose log ends before it. Of what was loaded before nothing is saved any more.
	Reset(ctx context.Context, offsets ...inbox.Offset) error
}

// Config of a [Source]. The zero value of each field but Brokers, Group and Topics is its default.
type Config struct {
	// Brokers are some of the cluster's, each as host:port. The others are learnt from them.
	Brokers []string
	Group   string // of consumers, who share the partitions
	Topics  []string
	// Newest: a new group begins with what comes after it was made. false: with the oldest message.
	Newest bool

	// Offsets says how far the group has come, instead of Kafka: [inbox.NewOffsets] keeps that in Postgres. Kafka is told all the same, for
	// its tools, and asked where Offsets know nothing of a partition. nil: Kafka's count.
	Offsets Offsets

	// BatchBytes is how much is read of a partition at once, and so bounds the memory: twice this a partition. A single
	// message may be larger. 0: 1 MB.
	BatchBytes int
	// SessionTimeout is how long a member may be silent before the others take over. 0: 10 s.
	SessionTimeout time.Duration
	// Heartbeat is how often it says that it is there. 0: a fifth of SessionTimeout.
	Heartbeat time.Duration
	// RebalanceTimeout is how long a rebalance waits for members. 0: 10 s.
	RebalanceTimeout time.Duration
	// WatchPartitions is how often to look for new partitions. 0: 10 s.
	WatchPartitions time.Duration
	// Timeout of one request. 0: 5 s.
	Timeout time.Duration

	ClientID string         // "": pgsagaz
	TLS      *tls.Config    // nil: no TLS
	SASL     sasl.Mechanism // nil: no authentication
	// Dial makes connections. nil: as net.Dialer does.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger // nil: nothing is logged
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case len(c.Brokers) == 0:
		return c, errors.New("kafkasub: no brokers")
	case c.Group == "":
		return c, errors.New("kafkasub: no group")
	case len(c.Topics) == 0:
		return c, errors.New("kafkasub: no topics")
	case c.BatchBytes < 0 || c.SessionTimeout < 0 || c.Heartbeat < 0 || c.RebalanceTimeout < 0 || c.WatchPartitions < 0 || c.Timeout < 0:
		return c, errors.New("kafkasub: a setting is negative")
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return c, fmt.Errorf("kafkasub: broker %q is not of the form host:port", b)
		}
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 1_000_000
	}
	for field, byDefault := range map[*time.Duration]time.Duration{
		&c.SessionTimeout: 10 * time.Second, &c.RebalanceTimeout: 10 * time.Second, &c.WatchPartitions: 10 * time.Second, &c.Timeout: 5 * time.Second,
	} {
		if *field == 0 {
			*field = byDefault
		}
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = c.SessionTimeout / 5
	}
	if c.ClientID == "" {
		c.ClientID = "pgsagaz"
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func (c Config) dialer() *kafka.Dialer {
	return &kafka.Dialer{ClientID: c.ClientID, DialFunc: c.Dial, Timeout: c.Timeout, TLS: c.TLS, SASLMechanism: c.SASL}
}

func (c Config) groupConfig() kafka.ConsumerGroupConfig {
	start := kafka.FirstOffset
	if c.Newest {
		start = kafka.LastOffset
	}
	return kafka.ConsumerGroupConfig{
		ID: c.Group, Brokers: c.Brokers, Dialer: c.dialer(), Topics: c.Topics, StartOffset: start, Timeout: c.Timeout,
		SessionTimeout: c.SessionTimeout, HeartbeatInterval: c.Heartbeat, RebalanceTimeout: c.RebalanceTimeout,
		JoinGroupBackoff: 250 * time.Millisecond, WatchPartitionChanges: true, PartitionWatchInterval: c.WatchPartitions,
	}
}
