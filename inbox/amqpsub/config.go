package amqpsub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Topology is what the source does about its queue before it consumes.
type Topology int

// What it does.
const (
	Declare Topology = iota // makes the queue and its bindings, and the exchanges of these, where they are not there
	Check                   // a queue that is not there is an error of Fetch
)

// Binding is where a queue's messages come from.
type Binding struct {
	Exchange string
	Kind     string // of the exchange; "": topic
	Key      string // "": #, all of a topic exchange
}

// Config of a [Source]. The zero value of each field but URL and Queue is its default.
type Config struct {
	// URL of the broker, as amqp://user:password@host:port/vhost, or amqps for TLS.
	URL   string
	Queue string

	Topology Topology
	Bindings []Binding // of the queue that is declared
	// SingleActive: of all consumers of the queue one is given messages, until it is gone.
	SingleActive bool
	// DeliveryLimit is how often RabbitMQ delivers a message again before it moves it to DeadLetterExchange. 0: for ever.
	DeliveryLimit      int
	DeadLetterExchange string

	// ID makes the id of a message that is no CloudEvent. nil: its message id. "": it has none.
	ID func(d amqp.Delivery) string

	// Prefetch is how many messages may be on their way or unacked. It should be at least the consumer's
	// MaxInFlight. 0: 1000.
	Prefetch int
	// Timeout of connecting and declaring. 0: 10 s.
	Timeout time.Duration
	// Heartbeat of the connection; two that are missed end it. 0: 10 s.
	Heartbeat time.Duration
	Name      string      // of the connection, for RabbitMQ's lists; "": pgsagaz
	TLS       *tls.Config // for amqps; nil: checks the server's certificate against the system's authorities
	// Dial makes connections. nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c Config) withDefaults() (Config, error) {
	if _, err := amqp.ParseURI(c.URL); err != nil {
		return c, fmt.Errorf("amqpsub: the URL is not of the form amqp://user:password@host:port/vhost: %w", err)
	}
	switch {
	case c.Queue == "":
		return c, errors.New("amqpsub: no queue")
	case c.Topology != Declare && c.Topology != Check:
		return c, fmt.Errorf("amqpsub: Topology %d is neither Declare nor Check", c.Topology)
	case c.DeliveryLimit < 0 || c.Prefetch < 0 || c.Timeout < 0 || c.Heartbeat < 0:
		return c, errors.New("amqpsub: a setting is negative")
	case c.DeliveryLimit > 0 && c.DeadLetterExchange == "":
		return c, errors.New("amqpsub: with a DeliveryLimit and no DeadLetterExchange RabbitMQ throws messages away")
	}
	for _, b := range c.Bindings {
		if b.Exchange == "" {
			return c, errors.New("amqpsub: a binding without an exchange")
		}
	}
	if c.ID == nil {
		c.ID = func(d amqp.Delivery) string { return d.MessageId }
	}
	if c.Prefetch == 0 {
		c.Prefetch = 1000
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return c, nil
}
