package amqpsub

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/internal/amqpconn"
)

// session is a connection with a channel that consumes.
type session struct {
	cfg     Config
	conn    *amqpconn.Conn
	channel *amqp.Channel
	arrived chan amqp.Delivery // and not fetched
	ended   chan struct{}
	running sync.WaitGroup

	mu  sync.Mutex
	why error // it ended
}

var errEnded = errors.New("the connection is lost")

// begin connects and consumes.
func begin(ctx context.Context, cfg Config) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	conn, err := amqpconn.Dial(ctx, amqpconn.Options{URL: cfg.URL, Name: cfg.Name, Heartbeat: cfg.Heartbeat, TLS: cfg.TLS, Dial: cfg.Dial})
	if err != nil {
		return nil, err
	}
	// As much room as there may be messages under way: the client's reader never waits.
	s := &session{cfg: cfg, conn: conn, arrived: make(chan amqp.Delivery, cfg.Prefetch), ended: make(chan struct{})}
	var deliveries <-chan amqp.Delivery
	err = conn.Within(ctx, func() (err error) {
		if s.channel, err = conn.Channel(); err != nil {
			return err
		}
		if err := declare(s.channel, cfg, fmt.Sprint(conn.Properties["version"])); err != nil {
			return err
		}
		if err := s.channel.Qos(cfg.Prefetch, 0, false); err != nil {
			return err
		}
		deliveries, err = s.channel.Consume(cfg.Queue, "", false, false, false, false, nil)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, conn.End())
	}
	closed := s.channel.NotifyClose(make(chan *amqp.Error, 1))
	s.running.Go(func() {
		for d := range deliveries { // until the channel is closed, or RabbitMQ cancels, as when the queue is deleted
			s.arrived <- d
		}
		s.mu.Lock()
		select {
		case why := <-closed:
			if why != nil {
				s.why = why
			}
		case <-time.After(time.Second):
			s.why = errors.New("RabbitMQ has cancelled the consumer")
		}
		s.mu.Unlock()
		close(s.ended)
	})
	return s, nil
}

// declare makes sure of the queue.
func declare(ch *amqp.Channel, cfg Config, version string) error {
	if cfg.Topology == Check {
		_, err := ch.QueueDeclarePassive(cfg.Queue, true, false, false, false, nil)
		return err
	}
	args := amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
	if cfg.SingleActive {
		args[amqp.SingleActiveConsumerArg] = true
	}
	if cfg.DeadLetterExchange != "" {
		args["x-dead-letter-exchange"] = cfg.DeadLetterExchange
	}
	switch {
	case cfg.DeliveryLimit > 0:
		args["x-delivery-limit"] = cfg.DeliveryLimit
	case !limitless(version):
		args["x-delivery-limit"] = -1
	}
	if _, err := ch.QueueDeclare(cfg.Queue, true, false, false, false, args); err != nil {
		return err
	}
	for _, b := range cfg.Bindings {
		kind, key := b.Kind, b.Key
		if kind == "" {
			kind = amqp.ExchangeTopic
		}
		if key == "" {
			key = "#"
		}
		if err := ch.ExchangeDeclare(b.Exchange, kind, true, false, false, false, nil); err != nil {
			return err
		}
		if err := ch.QueueBind(cfg.Queue, key, b.Exchange, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// limitless says whether quorum queues of that version have no delivery limit unless they are given one. Those versions do not know
// -1 either.
func limitless(version string) bool {
	var major int
	_, err := fmt.Sscanf(version, "%d.", &major)
	return err == nil && major < 4
}

// fetch hands out what has arrived, and waits for it if need be.
func (s *session) fetch(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	if s.hasEnded() {
		return nil, s.whyEnded() // what has arrived is delivered again
	}
	var deliveries []inbox.Delivery
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ended:
		return nil, s.whyEnded()
	case d := <-s.arrived:
		deliveries = append(deliveries, s.delivery(d))
	}
	for len(deliveries) < maximum {
		select {
		case d := <-s.arrived:
			deliveries = append(deliveries, s.delivery(d))
		default:
			return deliveries, nil
		}
	}
	return deliveries, nil
}

func (s *session) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *session) whyEnded() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(errEnded, s.why)
}

// end closes the connection, if it is not lost.
func (s *session) end() error {
	err := s.conn.End()
	s.running.Wait()
	return err
}

// lag is how many messages are ready in the queue, or have arrived.
func (s *session) lag(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var queue amqp.Queue
	err := s.conn.Within(ctx, func() error {
		ch, err := s.conn.Channel() // RabbitMQ closes it if the queue is gone
		if err != nil {
			return err
		}
		if queue, err = ch.QueueDeclarePassive(s.cfg.Queue, true, false, false, false, nil); err != nil {
			return err
		}
		return ch.Close()
	})
	return int64(queue.Messages + len(s.arrived)), err
}

// errNoID is why no message can be made of one that has no id.
var errNoID = errors.New("amqpsub: the message has no id: it is no CloudEvent, and has no message id")

func (s *session) delivery(d amqp.Delivery) inbox.Delivery {
	headers := make(map[string]string, len(d.Headers)+1)
	for name, value := range d.Headers {
		headers[name] = text(value)
	}
	if d.ContentType != "" {
		headers["content-type"] = d.ContentType
	}
	place := s.cfg.ID(d)
	message, err := inbox.Decode(d.Exchange, place, headers, d.Body)
	if message.Type == "" {
		message.Type = d.Type
	}
	if message.Time.IsZero() {
		message.Time = d.Timestamp
	}
	if message.ID == "" {
		message.ID = fmt.Sprintf("%s/no id/%x", s.cfg.Queue, sha256.Sum256(d.Body)) // the same when it comes again
		err = errors.Join(err, errNoID)
	}
	return inbox.Delivery{Message: message, Err: err, Redelivered: redelivered(d), Revoked: s.ended, Tag: tag{s, d.DeliveryTag}}
}

// redelivered is how often the message was delivered before.
func redelivered(d amqp.Delivery) int {
	if count, ok := d.Headers["x-delivery-count"].(int64); ok && count > 0 {
		return int(count)
	}
	if d.Redelivered {
		return 1
	}
	return 0
}

// text is a header's value: a string as it is, anything else as JSON.
func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(b)
}
