package amqpsub

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// Source is an [inbox.Source] and an [inbox.Lagger].
type Source struct {
	cfg     Config
	current *session // Fetch's own; nil: none
	last    atomic.Pointer[session]
}

// tag is what a delivery carries for Ack.
type tag struct {
	session *session
	number  uint64
}

var (
	_ inbox.Source = (*Source)(nil)
	_ inbox.Lagger = (*Source)(nil)
)

// New makes a source. It connects when it first fetches.
func New(cfg Config) (*Source, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Source{cfg: cfg}, nil
}

// Fetch waits for messages.
func (s *Source) Fetch(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	if s.current == nil {
		begun, err := begin(ctx, s.cfg)
		if err != nil {
			return nil, fmt.Errorf("amqpsub: queue %s: %w", s.cfg.Queue, err)
		}
		s.current = begun
		s.last.Store(begun)
	}
	deliveries, err := s.current.fetch(ctx, maximum)
	if errors.Is(err, errEnded) {
		err = fmt.Errorf("amqpsub: queue %s: %w", s.cfg.Queue, errors.Join(err, s.current.end()))
		s.current = nil
	}
	return deliveries, err
}

// Ack acks messages. Those of a lost connection are passed over.
func (s *Source) Ack(_ context.Context, deliveries []inbox.Delivery) error {
	for _, d := range deliveries {
		t := d.Tag.(tag)
		if t.session.hasEnded() {
			continue
		}
		if err := t.session.channel.Ack(t.number, false); err != nil && !t.session.channel.IsClosed() {
			return fmt.Errorf("amqpsub: %w", err)
		}
	}
	return nil
}

// Release leaves it to Close. A message that was given back alone would be delivered to this very consumer again, and then lie behind
// those that it still holds, of the same key too.
func (s *Source) Release(context.Context, []inbox.Delivery) error { return nil }

// Close ends the connection: RabbitMQ gives to others what was not acked.
func (s *Source) Close() error {
	current := s.last.Load()
	if current == nil {
		return nil
	}
	if err := current.end(); err != nil {
		return fmt.Errorf("amqpsub: closing: %w", err)
	}
	return nil
}

// Lag is how many messages wait in the queue, and here to be fetched.
func (s *Source) Lag(ctx context.Context) (int64, error) {
	current := s.last.Load()
	if current == nil || current.hasEnded() {
		return 0, fmt.Errorf("amqpsub: the lag of queue %s is not known without a connection", s.cfg.Queue)
	}
	n, err := current.lag(ctx)
	if err != nil {
		return 0, fmt.Errorf("amqpsub: lag of queue %s: %w", s.cfg.Queue, err)
	}
	return n, nil
}
