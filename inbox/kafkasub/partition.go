package kafkasub

import "sync"

// partition is how far a partition was read, handed out, acked and committed. All are offsets of the next message.
type partition struct {
	topic string
	id    int

	mu    sync.Mutex
	next  int64          // to be handed out; kafka.FirstOffset or LastOffset before the reader knows better
	out   []int64        // handed out and not covered by mark, in order
	acked map[int64]bool // those of out that were acked
	mark  int64          // all before it were acked; 0: nothing yet
	done  int64          // committed

	resets int64 // of the offset in Postgres; of newGeneration, and then of who commits
}

// handOut is told of messages in the order of their offsets.
func (p *partition) handOut(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = offset + 1
	p.out = append(p.out, offset)
}

// ack is told of each message once or more, in any order.
func (p *partition) ack(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if offset < p.mark {
		return
	}
	if p.acked == nil {
		p.acked = map[int64]bool{}
	}
	p.acked[offset] = true
	for len(p.out) > 0 && p.acked[p.out[0]] {
		p.mark = p.out[0] + 1
		delete(p.acked, p.out[0])
		p.out = p.out[1:]
	}
}

// toCommit is the offset to commit, if there is anything new.
func (p *partition) toCommit() (offset int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mark, p.mark > p.done
}

func (p *partition) committed(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = offset
}

// position is the offset of what is handed out next, or below zero if it is not known yet.
func (p *partition) position() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

// begin sets where handing out begins, or goes on further up.
func (p *partition) begin(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = offset
}
