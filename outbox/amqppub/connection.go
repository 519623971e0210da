package amqppub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/internal/amqpconn"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// connection is one to RabbitMQ, with channels to spare.
type connection struct {
	*amqpconn.Conn

	mu    sync.Mutex
	spare []*channel
	known map[string]bool // exchanges that were there
}

// channel is in confirm mode. One call uses it at a time.
type channel struct {
	*amqp.Channel
	returns chan amqp.Return
	end     chan *amqp.Error
}

// connection is the one there is, or a new one.
func (p *Publisher) connection(ctx context.Context) (*connection, error) {
	select {
	case p.connecting <- struct{}{}:
		defer func() { <-p.connecting }()
	case <-ctx.Done():
		return nil, fmt.Errorf("amqppub: connecting: %w", ctx.Err())
	}
	p.mu.Lock()
	conn := p.conn
	p.mu.Unlock()
	if conn != nil && !conn.IsClosed() {
		return conn, nil
	}
	raw, err := amqpconn.Dial(ctx, amqpconn.Options{URL: p.cfg.URL, Name: p.cfg.Name, Heartbeat: p.cfg.Heartbeat, TLS: p.cfg.TLS, Dial: p.cfg.Dial})
	if err != nil {
		return nil, fmt.Errorf("amqppub: connecting: %w", err)
	}
	conn = &connection{Conn: raw, known: map[string]bool{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
	return conn, nil
}

// open gives a spare channel, or a new one.
func (c *connection) open(ctx context.Context, room int) (*channel, error) {
	c.mu.Lock()
	for len(c.spare) > 0 {
		ch := c.spare[len(c.spare)-1]
		c.spare = c.spare[:len(c.spare)-1]
		if !ch.IsClosed() {
			c.mu.Unlock()
			return ch, nil
		}
	}
	c.mu.Unlock()
	ch := &channel{}
	err := c.Within(ctx, func() (err error) {
		if ch.Channel, err = c.Channel(); err != nil {
			return err
		}
		return ch.Confirm(false)
	})
	if err != nil {
		return nil, fmt.Errorf("amqppub: opening a channel: %w", err)
	}
	ch.returns = ch.NotifyReturn(make(chan amqp.Return, room))
	ch.end = ch.NotifyClose(make(chan *amqp.Error, 1))
	return ch, nil
}

// giveBack keeps a channel for the next call, unless answers may still come for this one.
func (p *Publisher) giveBack(c *connection, ch *channel, clean bool) {
	if clean {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spare = append(c.spare, ch)
		return
	}
	// Close waits for RabbitMQ; if that is dead, until the connection is.
	p.ending.Go(func() { _ = ch.Close() })
}

// returned are the messages that came back. A return comes before its confirmation, so that after all confirmations all are here.
func (ch *channel) returned() (returns []amqp.Return) {
	for {
		select {
		case r, ok := <-ch.returns:
			if !ok {
				return returns
			}
			returns = append(returns, r)
		default:
			return returns
		}
	}
}

// closed says why the channel is closed, if it is.
func (ch *channel) closed() (why *amqp.Error, closed bool) {
	if !ch.IsClosed() {
		return nil, false
	}
	return <-ch.end, true // the error, or nil from the closed Go channel
}

// know asks once on a connection for an exchange. A channel of its own is asked with: RabbitMQ closes it when the answer is no.
func (c *connection) know(ctx context.Context, exchange string, ask func(ch *amqp.Channel) error) error {
	c.mu.Lock()
	known := c.known[exchange]
	c.mu.Unlock()
	if known {
		return nil
	}
	err := c.Within(ctx, func() error {
		ch, err := c.Channel()
		if err != nil {
			return err
		}
		if err := ask(ch); err != nil {
			return err
		}
		return ch.Close()
	})
	var why *amqp.Error
	switch {
	case err == nil:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known[exchange] = true
		return nil
	case errors.As(err, &why) && isException(why):
		return &outbox.RejectedError{Err: fmt.Errorf("amqppub: exchange %q: %w", exchange, why)}
	}
	return fmt.Errorf("amqppub: exchange %q: %w", exchange, err)
}

// forget makes the next event of the exchange ask again.
func (c *connection) forget(exchange string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, exchange)
}

// isException says whether RabbitMQ has closed a channel, and not the connection, for something that was asked on it.
func isException(why *amqp.Error) bool {
	return why != nil && why.Server && slices.Contains([]int{amqp.ContentTooLarge, amqp.AccessRefused, amqp.NotFound, amqp.ResourceLocked, amqp.PreconditionFailed}, why.Code)
}

func closedBy(why *amqp.Error) error {
	if why == nil {
		return errors.New("the channel was closed before it was confirmed")
	}
	return fmt.Errorf("the channel was closed before it was confirmed: %w", why)
}
