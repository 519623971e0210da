package kafkasub

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// generation is this member's share of the partitions, until the next rebalance.
type generation struct {
	joined     *kafka.Generation
	offsets    Offsets // nil: Kafka's
	partitions []*partition
	batches    chan batch
	ended      chan struct{}
	rest       batch // of what Fetch has taken off batches, and not handed out

	committing sync.Mutex // one commit at a time: a later one with an older offset would take the group back
}

// batch is messages of a partition on their way from its reader to Fetch.
type batch struct {
	partition *partition
	messages  []kafka.Message
}

// tag is what a delivery carries for Ack.
type tag struct {
	generation *generation
	partition  *partition
	offset     int64
}

// newGeneration begins to read. known are offsets that count instead of Kafka's.
func newGeneration(cfg Config, joined *kafka.Generation, known map[string]map[int]int64) *generation {
	g := &generation{joined: joined, offsets: cfg.Offsets, batches: make(chan batch), ended: make(chan struct{})}
	joined.Start(func(ctx context.Context) { // when one function returns the generation ends, for all
		<-ctx.Done()
		close(g.ended)
	})
	for topic, assigned := range joined.Assignments {
		for _, a := range assigned {
			p := &partition{topic: topic, id: a.ID, next: a.Offset}
			if next, ok := known[topic][a.ID]; ok {
				p.next = next
			}
			g.partitions = append(g.partitions, p)
			joined.Start(func(ctx context.Context) { readAll(ctx, cfg, p, g.batches) })
		}
	}
	return g
}

// fetch hands out what a reader has, and waits for it if need be.
func (g *generation) fetch(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	if g.hasEnded() {
		return nil, kafka.ErrGenerationEnded // with what was read and not handed out
	}
	if len(g.rest.messages) == 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-g.ended:
			return nil, kafka.ErrGenerationEnded
		case g.rest = <-g.batches:
		}
	}
	var deliveries []inbox.Delivery
	for len(deliveries) < maximum && len(g.rest.messages) > 0 {
		deliveries = append(deliveries, g.deliver(g.rest.partition, g.rest.messages[0]))
		g.rest.messages = g.rest.messages[1:]
	}
	return deliveries, nil
}

func (g *generation) deliver(p *partition, m kafka.Message) inbox.Delivery {
	headers := make(map[string]string, len(m.Headers))
	for _, h := range m.Headers {
		headers[h.Key] = string(h.Value)
	}
	message, err := inbox.Decode(m.Topic, fmt.Sprintf("%s/%d/%d", m.Topic, m.Partition, m.Offset), headers, m.Value)
	if message.Key == "" {
		message.Key = string(m.Key)
	}
	if message.Time.IsZero() {
		message.Time = m.Time
	}
	p.handOut(m.Offset)
	return inbox.Delivery{Message: message, Err: err, Revoked: g.ended, Tag: tag{g, p, m.Offset}}
}

func (g *generation) hasEnded() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// commit tells the broker how far all messages of each partition were acked. Acks at once share commits: who waited for another's
// finds that it said enough.
func (g *generation) commit(ctx context.Context) error {
	g.committing.Lock()
	defer g.committing.Unlock()
	if g.hasEnded() {
		return nil // they are delivered again, to whoever has the partition now
	}
	offsets := map[string]map[int]int64{}
	for _, p := range g.partitions {
		if offset, ok := p.toCommit(); ok {
			if offsets[p.topic] == nil {
				offsets[p.topic] = map[int]int64{}
			}
			offsets[p.topic][p.id] = offset
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	if g.offsets != nil {
		if err := g.offsets.Save(ctx, list(offsets)...); err != nil {
			return err
		}
	}
	err := g.joined.CommitOffsets(offsets)
	switch {
	case err == nil || g.offsets != nil: // what Kafka knows is for its tools then
		for _, p := range g.partitions {
			if offset, ok := offsets[p.topic][p.id]; ok {
				p.committed(offset)
			}
		}
		return nil
	case g.hasEnded(), errors.Is(err, kafka.IllegalGeneration), errors.Is(err, kafka.UnknownMemberId), errors.Is(err, kafka.RebalanceInProgress):
		return nil
	}
	return err
}

func list(offsets map[string]map[int]int64) (all []inbox.Offset) {
	for topic, partitions := range offsets {
		for id, next := range partitions {
			all = append(all, inbox.Offset{Topic: topic, Partition: id, Next: next})
		}
	}
	return all
}
