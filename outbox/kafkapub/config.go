package kafkapub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// UnknownTopic is what becomes of an event whose topic is not there.
type UnknownTopic int

// Policies for unknown topics.
const (
	Fail   UnknownTopic = iota // the event is rejected
	Create                     // the topic is created
)

// Config of a [Publisher]. The zero value of each field but Brokers is its default.
type Config struct {
	// Brokers are some of the cluster's, each as host:port. The others are learnt from them.
	Brokers []string
	// Format of the messages.
	Format outbox.Format

	UnknownTopic      UnknownTopic
	Partitions        int // of a topic that is created; 0: the broker's default
	ReplicationFactor int // of a topic that is created; 0: the broker's default

	// Balancer chooses the partition of a key. nil: murmur2, as Java's clients do. It must choose the same one for the
	// same key.
	Balancer kafka.Balancer
	// Compression of batches. 0: none.
	Compression kafka.Compression
	// BatchBytes bounds a request to a partition. A single event may be larger. 0: 900 kB, below Kafka's own limit of a
	// batch, which is 1 MiB unless the topic says otherwise.
	BatchBytes int
	// Timeout of one request. 0: 10 s.
	Timeout time.Duration
	// MetadataTTL is how old the knowledge of topics and leaders may be. It is of all the cluster's topics: make it longer where
	// there are many thousands. 0: 2 s.
	MetadataTTL time.Duration

	ClientID string         // "": pgsagaz
	TLS      *tls.Config    // nil: no TLS
	SASL     sasl.Mechanism // nil: no authentication
	// Dial makes connections. nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Brokers) == 0 {
		return c, errors.New("kafkapub: no brokers")
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			return c, fmt.Errorf("kafkapub: broker %q is not of the form host:port", b)
		}
	}
	if c.Partitions < 0 || c.ReplicationFactor < 0 || c.BatchBytes < 0 || c.Timeout < 0 || c.MetadataTTL < 0 {
		return c, errors.New("kafkapub: a setting is negative")
	}
	if c.UnknownTopic != Fail && c.UnknownTopic != Create {
		return c, fmt.Errorf("kafkapub: UnknownTopic %d is neither Fail nor Create", c.UnknownTopic)
	}
	if c.Balancer == nil {
		c.Balancer = kafka.Murmur2Balancer{Consistent: true}
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 900_000
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.MetadataTTL == 0 {
		c.MetadataTTL = 2 * time.Second
	}
	if c.ClientID == "" {
		c.ClientID = "pgsagaz"
	}
	if c.Partitions == 0 {
		c.Partitions = -1
	}
	if c.ReplicationFactor == 0 {
		c.ReplicationFactor = -1
	}
	return c, nil
}
