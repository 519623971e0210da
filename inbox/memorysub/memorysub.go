// Package memorysub is a broker in memory: for tests, demonstrations and measurements. It forgets with the
// process.
//
// It is made like a log of partitions: the messages of a key are in one of them, and in their order; of the
// members of a group each has some of the partitions, and when members come and go, what was delivered and not
// acked is delivered again to whoever has the partition now.
package memorysub

import (
	"context"
	"hash/fnv"
	"slices"
	"sync"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// Config of a [Broker]. The zero value of each field is its default.
type Config struct {
	Partitions int // 0: 8
	// Fault is asked before each Fetch and Ack, named by op, and its error is theirs. nil: none. It must
	// stand being called at once.
	Fault func(op string) error
}

// Broker keeps what is published. Its methods may be called at once.
type Broker struct {
	cfg Config

	mu      sync.Mutex
	log     []inbox.Message
	groups  map[string]*group
	changed chan struct{} // closed, and replaced, when there may be something to fetch
}

type group struct {
	partitions []partition
	members    []*Source
	turn       int // moves partitions from member to member
}

type partition struct {
	entries []entry
	done    int // entries before it are acked
	owner   *Source
	revoked chan struct{} // of the present owner
}

type entry struct {
	message   inbox.Message
	delivered int
	out, ack  bool
}

// place is the Tag of a delivery.
type place struct {
	partition, entry int
	revoked          <-chan struct{} // tells the generation
}

// New makes an empty broker.
func New(cfg Config) *Broker {
	if cfg.Partitions <= 0 {
		cfg.Partitions = 8
	}
	return &Broker{cfg: cfg, groups: map[string]*group{}, changed: make(chan struct{})}
}

// Publish appends messages, for every group.
func (b *Broker) Publish(messages ...inbox.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range messages {
		for _, g := range b.groups {
			g.append(m, len(b.log))
		}
		b.log = append(b.log, m)
	}
	b.wake()
}

func (g *group) append(m inbox.Message, n int) {
	if m.Key != "" {
		h := fnv.New32a()
		h.Write([]byte(m.Key))
		n = int(h.Sum32() % uint32(len(g.partitions)))
	}
	p := &g.partitions[n%len(g.partitions)]
	p.entries = append(p.entries, entry{message: m})
}

// Source is a new member of the group, which begins with the oldest message. It has some of the
// partitions at once, taken from the members there were.
func (b *Broker) Source(name string) *Source {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.groups[name]
	if g == nil {
		g = &group{partitions: make([]partition, b.cfg.Partitions)}
		for i, m := range b.log {
			g.append(m, i)
		}
		b.groups[name] = g
	}
	s := &Source{broker: b, group: g}
	g.members = append(g.members, s)
	b.assign(g)
	return s
}

// Rebalance gives every partition of the group to another member, if there is one, and takes back what was
// delivered and not acked in any case.
func (b *Broker) Rebalance(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.groups[name]; g != nil {
		g.turn++
		for i := range g.partitions {
			g.partitions[i].owner = nil
		}
		b.assign(g)
	}
}

// Waiting is how many messages the group has not acked.
func (b *Broker) Waiting(name string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.groups[name]
	if g == nil {
		return len(b.log)
	}
	for _, p := range g.partitions {
		for _, e := range p.entries[p.done:] {
			if !e.ack {
				n++
			}
		}
	}
	return n
}

// assign shares the partitions out. It is called with the lock held.
func (b *Broker) assign(g *group) {
	for i := range g.partitions {
		p := &g.partitions[i]
		var owner *Source
		if len(g.members) > 0 {
			owner = g.members[(i+g.turn)%len(g.members)]
		}
		if owner == p.owner {
			continue
		}
		if p.revoked != nil {
			close(p.revoked)
		}
		p.owner, p.revoked = owner, make(chan struct{})
		for j := range p.entries {
			p.entries[j].out = false
		}
	}
	b.wake()
}

// wake is called with the lock held.
func (b *Broker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Source is a member of a group. It is an [inbox.Source].
type Source struct {
	broker *Broker
	group  *group
}

// Fetch is [inbox.Source]'s.
func (s *Source) Fetch(ctx context.Context, max int) ([]inbox.Delivery, error) {
	if err := s.fault("fetch"); err != nil {
		return nil, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, changed := s.take(max)
		if len(found) > 0 {
			return found, nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func (s *Source) take(max int) (found []inbox.Delivery, changed <-chan struct{}) {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	for i := range s.group.partitions {
		p := &s.group.partitions[i]
		if p.owner != s {
			continue
		}
		for j := p.done; j < len(p.entries) && len(found) < max; j++ {
			e := &p.entries[j]
			if e.out || e.ack {
				continue
			}
			e.out = true
			found = append(found, inbox.Delivery{
				Message: e.message, Redelivered: e.delivered, Revoked: p.revoked, Tag: place{i, j, p.revoked},
			})
			e.delivered++
		}
	}
	return found, s.broker.changed
}

// Ack is [inbox.Source]'s.
func (s *Source) Ack(_ context.Context, deliveries []inbox.Delivery) error {
	if err := s.fault("ack"); err != nil {
		return err
	}
	s.each(deliveries, func(p *partition, e *entry) {
		e.ack = true
		for p.done < len(p.entries) && p.entries[p.done].ack {
			p.done++
		}
	})
	return nil
}

// Release is [inbox.Source]'s.
func (s *Source) Release(_ context.Context, deliveries []inbox.Delivery) error {
	s.each(deliveries, func(_ *partition, e *entry) { e.out = false })
	return nil
}

// each calls f for those deliveries that are still this member's.
func (s *Source) each(deliveries []inbox.Delivery, f func(*partition, *entry)) {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	for _, d := range deliveries {
		at := d.Tag.(place)
		if p := &s.group.partitions[at.partition]; p.owner == s && p.revoked == at.revoked {
			f(p, &p.entries[at.entry])
		}
	}
	s.broker.wake()
}

// Lag is [inbox.Lagger]'s.
func (s *Source) Lag(context.Context) (n int64, err error) {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	for i := range s.group.partitions {
		p := &s.group.partitions[i]
		if p.owner != s {
			continue
		}
		for _, e := range p.entries[p.done:] {
			if !e.out && !e.ack {
				n++
			}
		}
	}
	return n, nil
}

// Close leaves the group, as the end of its process would.
func (s *Source) Close() error {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	s.group.members = slices.DeleteFunc(s.group.members, func(m *Source) bool { return m == s })
	s.broker.assign(s.group)
	return nil
}

func (s *Source) fault(op string) error {
	if s.broker.cfg.Fault == nil {
		return nil
	}
	return s.broker.cfg.Fault(op)
}
