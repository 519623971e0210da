package kafkasub

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// Source is an [inbox.Source] and an [inbox.Lagger].
type Source struct {
	cfg       Config
	group     *kafka.ConsumerGroup
	transport *kafka.Transport           // for Lag
	joined    *kafka.Generation          // Fetch's own; of which the offsets are still to be learnt
	current   *generation                // Fetch's own; nil: none yet, or it has ended
	last      atomic.Pointer[generation] // the same, for Lag
}

var (
	_ inbox.Source = (*Source)(nil)
	_ inbox.Lagger = (*Source)(nil)
)

// New makes a source, which begins to join the group. It ends with Close.
func New(cfg Config) (*Source, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	group, err := kafka.NewConsumerGroup(cfg.groupConfig())
	if err != nil {
		return nil, fmt.Errorf("kafkasub: %w", err)
	}
	return &Source{cfg: cfg, group: group, transport: &kafka.Transport{Dial: cfg.Dial, ClientID: cfg.ClientID, TLS: cfg.TLS, SASL: cfg.SASL}}, nil
}

// Fetch waits for messages of the partitions that this member has.
func (s *Source) Fetch(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	for {
		if s.current == nil {
			if err := s.join(ctx); err != nil {
				return nil, err
			}
		}
		deliveries, err := s.current.fetch(ctx, maximum)
		if !errors.Is(err, kafka.ErrGenerationEnded) {
			return deliveries, err
		}
		s.current = nil
	}
}

// join waits for partitions, and learns where they are to be read on.
func (s *Source) join(ctx context.Context) (err error) {
	if s.joined == nil {
		if s.joined, err = s.group.Next(ctx); err != nil {
			return fmt.Errorf("kafkasub: joining group %s: %w", s.cfg.Group, err)
		}
	}
	var known []inbox.Offset
	if s.cfg.Offsets != nil {
		if known, err = s.cfg.Offsets.Load(ctx); err != nil {
			return fmt.Errorf("kafkasub: offsets of group %s: %w", s.cfg.Group, err) // the next Fetch asks again
		}
	}
	s.current = newGeneration(s.cfg, s.joined, known)
	s.joined = nil
	s.last.Store(s.current)
	return nil
}

// Ack commits the offsets up to which all messages were acked.
func (s *Source) Ack(ctx context.Context, deliveries []inbox.Delivery) error {
	generations := map[*generation]bool{}
	for _, d := range deliveries {
		t := d.Tag.(tag)
		t.partition.ack(t.offset)
		generations[t.generation] = true
	}
	var errs []error
	for g := range generations {
		if err := g.commit(ctx); err != nil {
			errs = append(errs, fmt.Errorf("kafkasub: committing offsets of group %s: %w", s.cfg.Group, err))
		}
	}
	return errors.Join(errs...)
}

// Release leaves it to Close.
func (s *Source) Release(context.Context, []inbox.Delivery) error { return nil }

// Close leaves the group.
func (s *Source) Close() error {
	err := s.group.Close()
	s.transport.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("kafkasub: leaving group %s: %w", s.cfg.Group, err)
	}
	return nil
}

// Lag is how many messages lie in this member's partitions behind what was handed out.
func (s *Source) Lag(ctx context.Context) (int64, error) {
	g := s.last.Load()
	if g == nil {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	request := &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{}}
	for _, p := range g.partitions {
		request.Topics[p.topic] = append(request.Topics[p.topic], kafka.FirstOffsetOf(p.id), kafka.LastOffsetOf(p.id))
	}
	client := &kafka.Client{Addr: kafka.TCP(s.cfg.Brokers...), Transport: s.transport}
	answer, err := client.ListOffsets(ctx, request)
	if err != nil {
		return 0, fmt.Errorf("kafkasub: %w", err)
	}
	var lag int64
	for _, p := range g.partitions {
		for _, o := range answer.Topics[p.topic] {
			switch {
			case o.Partition != p.id:
			case o.Error != nil:
				return 0, fmt.Errorf("kafkasub: topic %s, partition %d: %w", p.topic, p.id, o.Error)
			default:
				lag += max(0, o.LastOffset-max(p.position(), o.FirstOffset))
			}
		}
	}
	return lag, nil
}
