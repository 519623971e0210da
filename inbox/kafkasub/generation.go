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
	ending     sync.Once
	rest       batch // of what Fetch has taken off batches, and not handed out

	committing sync.Mutex // one commit or reset at a time: a later one with an older offset would take the group back
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
func newGeneration(cfg Config, joined *kafka.Generation, known []inbox.Offset) *generation {
	g := &generation{joined: joined, offsets: cfg.Offsets, batches: make(chan batch), ended: make(chan struct{})}
	joined.Start(func(ctx context.Context) { // when one function returns the generation ends, for all
		select {
		case <-ctx.Done():
			g.end()
		case <-g.ended:
		}
	})
	for topic, assigned := range joined.Assignments {
		for _, a := range assigned {
			p := &partition{topic: topic, id: a.ID, next: a.Offset}
			for _, at := range known {
				if at.Topic == topic && at.Partition == a.ID {
					p.next, p.resets = at.Next, at.Resets
				}
			}
			g.partitions = append(g.partitions, p)
			joined.Start(func(ctx context.Context) { (&reader{cfg: cfg, g: g, p: p, offset: p.next}).run(ctx) })
		}
	}
	return g
}

func (g *generation) end() { g.ending.Do(func() { close(g.ended) }) }

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
	// With its time: at that offset there may have been another record, of a topic by that name that was deleted since.
	place := fmt.Sprintf("%s/%d/%d@%d", m.Topic, m.Partition, m.Offset, m.Time.UnixMilli())
	message, err := inbox.Decode(m.Topic, place, headers, m.Value)
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
	var all []inbox.Offset
	for _, p := range g.partitions {
		if offset, ok := p.toCommit(); ok {
			if offsets[p.topic] == nil {
				offsets[p.topic] = map[int]int64{}
			}
			offsets[p.topic][p.id] = offset
			all = append(all, inbox.Offset{Topic: p.topic, Partition: p.id, Next: offset, Resets: p.resets})
		}
	}
	if len(all) == 0 {
		return nil
	}
	if g.offsets != nil {
		err := g.offsets.Save(ctx, all...)
		if errors.Is(err, inbox.ErrReset) {
			g.end() // the next generation begins where the reset says
			return nil
		}
		if err != nil {
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

// begin records where a group begins that is to read the newest alone. Otherwise that would be another place after a rebalance, and what was handed
// out before it and not acked would be passed over.
func (g *generation) begin(ctx context.Context, p *partition, next int64) error {
	g.committing.Lock()
	defer g.committing.Unlock()
	if g.offsets != nil {
		switch err := g.offsets.Save(ctx, inbox.Offset{Topic: p.topic, Partition: p.id, Next: next, Resets: p.resets}); {
		case errors.Is(err, inbox.ErrReset): // by somebody else
			g.end()
			return kafka.ErrGenerationEnded
		case err != nil:
			return err
		}
	}
	if err := g.joined.CommitOffsets(map[string]map[int]int64{p.topic: {p.id: next}}); err != nil && g.offsets == nil {
		return err
	}
	return nil
}

// reset records that a partition is to be read again from next on, as its log ends before what was read. If any of it was read in this
// generation, not fresh, that ends: of what was handed out before nothing may be saved any more. Say the log had 1000 messages, was
// deleted, and has 5 new ones:
//
//	reader                            an ack that is late
//	                                  of message 999: 1000 is to be saved
//	reset: 0 is saved
//	                                  1000 is saved
//
// The new ones would be read, but not counted, as they lie below 1000. And if a consumer begins when the log has grown beyond 1000, it
// begins there: nobody tells that it misses the rest. So both hold committing. An ack that comes first is overwritten. One that
// comes second finds the generation ended, and saves nothing. One of another process, which had the partition before and does
// not know that it lost it, is refused: by Kafka as of an old generation, by Postgres as of before the reset.
//
// A generation that ends meanwhile does not keep it from being recorded: whoever comes next may find a log that has grown beyond what was read.
func (g *generation) reset(ctx context.Context, cfg Config, p *partition, next int64, fresh bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.Timeout)
	defer cancel()
	g.committing.Lock()
	defer g.committing.Unlock()
	if g.offsets != nil {
		switch err := g.offsets.Reset(ctx, inbox.Offset{Topic: p.topic, Partition: p.id, Next: next, Resets: p.resets}); {
		case errors.Is(err, inbox.ErrReset): // by somebody else
			fresh = false
		case err != nil:
			return err
		default:
			p.resets++
		}
	}
	if err := g.joined.CommitOffsets(map[string]map[int]int64{p.topic: {p.id: next}}); err != nil && g.offsets == nil {
		return err
	}
	if !fresh {
		g.end()
		return kafka.ErrGenerationEnded
	}
	return nil
}
