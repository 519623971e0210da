package amqppub

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// Topology is what the publisher does about an exchange before it first publishes to it.
type Topology int

// What it does.
const (
	Declare Topology = iota // makes the exchange, if it is not there; one of another kind is an error
	Check                   // events of an exchange that is not there are rejected
)

// Unroutable is what becomes of an event that no queue takes.
type Unroutable int

// What becomes of it.
const (
	Reject Unroutable = iota // it is rejected
	Drop                     // it is acknowledged, and gone: for events that nobody has to be interested in
)

// Config of a [Publisher]. The zero value of each field but URL is its default.
type Config struct {
	// URL of the broker, as amqp://user:password@host:port/vhost, or amqps for TLS.
	URL string
	// Format of the messages.
	Format outbox.Format

	Topology Topology
	// Kind of the exchanges that are declared. "": topic.
	Kind       string
	Unroutable Unroutable
	// Route chooses where an event goes. nil: its Topic and RoutingKey. The exchange "" is RabbitMQ's default one, which
	// routes to the queue that is named by the routing key.
	Route func(e outbox.Event) (exchange, routingKey string)
	// Transient messages are lost when the broker restarts. false: they are persistent.
	Transient bool

	// MaxInFlight is how many messages of a call are under way at most. 0: 256.
	MaxInFlight int
	// Timeout of connecting, and of the confirmation of what is under way. 0: 10 s.
	Timeout time.Duration
	// Heartbeat of the connection; two that are missed end it. 0: 10 s.
	Heartbeat time.Duration
	// Name of the connection, for RabbitMQ's lists. "": pgsagaz.
	Name string
	TLS  *tls.Config // for amqps; nil: checks the server's certificate against the system's authorities
	// Dial makes connections. nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c Config) withDefaults() (Config, error) {
	if _, err := amqp.ParseURI(c.URL); err != nil {
		return c, fmt.Errorf("amqppub: the URL is not of the form amqp://user:password@host:port/vhost: %w", err)
	}
	if c.Topology != Declare && c.Topology != Check {
		return c, fmt.Errorf("amqppub: Topology %d is neither Declare nor Check", c.Topology)
	}
	if c.Unroutable != Reject && c.Unroutable != Drop {
		return c, fmt.Errorf("amqppub: Unroutable %d is neither Reject nor Drop", c.Unroutable)
	}
	if c.MaxInFlight < 0 || c.Timeout < 0 || c.Heartbeat < 0 {
		return c, fmt.Errorf("amqppub: a setting is negative")
	}
	if c.Kind == "" {
		c.Kind = amqp.ExchangeTopic
	}
	if c.Route == nil {
		c.Route = func(e outbox.Event) (string, string) { return e.Topic, e.RoutingKey }
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 256
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return c, nil
}
