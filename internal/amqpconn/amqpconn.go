// Package amqpconn gives connections to RabbitMQ what the client lacks: a context for what waits for the broker.
package amqpconn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Options of a connection.
type Options struct {
	URL       string
	Name      string        // for RabbitMQ's lists; "": pgsagaz
	Heartbeat time.Duration // 0: 10 s
	TLS       *tls.Config
	Dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil: the net package's
}

func (o Options) withDefaults() Options {
	if o.Heartbeat == 0 {
		o.Heartbeat = 10 * time.Second
	}
	if o.Name == "" {
		o.Name = "pgsagaz"
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return o
}

// Conn is a connection.
type Conn struct {
	*amqp.Connection
	raw net.Conn
}

// Dial connects until ctx ends.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	o = o.withDefaults()
	c := &Conn{}
	stop := func() bool { return true }
	config := amqp.Config{Heartbeat: o.Heartbeat, TLSClientConfig: o.TLS, Properties: amqp.NewConnectionProperties()}
	config.Properties.SetClientConnectionName(o.Name)
	config.Dial = func(network, address string) (net.Conn, error) {
		raw, err := o.Dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c.raw = raw
		stop = context.AfterFunc(ctx, func() { _ = raw.Close() }) // the handshake knows no context
		return raw, nil
	}
	var err error
	c.Connection, err = amqp.DialConfig(o.URL, config)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		if c.raw != nil {
			_ = c.raw.Close()
		}
		return nil, err
	}
	return c, nil
}

// Within runs f, which speaks with RabbitMQ and knows no context: at the end of ctx the connection is cut, so that f ends.
func (c *Conn) Within(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	err := f()
	if !stop() {
		return errors.Join(ctx.Err(), err)
	}
	return err
}

// End closes the connection, and waits some seconds at most for RabbitMQ to agree.
func (c *Conn) End() error {
	if c.IsClosed() {
		return nil
	}
	err := c.CloseDeadline(time.Now().Add(5 * time.Second))
	_ = c.raw.Close()
	if errors.Is(err, amqp.ErrClosed) || errors.Is(err, net.ErrClosed) { // it broke meanwhile
		return nil
	}
	return err
}
