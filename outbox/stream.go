package outbox

import (
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// position is how far a bucket has been read or published: all that the snapshot prev sees, and of what
// cur sees beyond, the ids up to last.
type position struct {
	prev string
	cur  string // "": nothing beyond prev
	last int64
}

// item is an event that was read and is not done yet.
type item struct {
	event  Event
	bucket int16
	page   *page
	hold   *hold // it comes from outbox_stuck, as this key's; nil: from the stream

	age    time.Duration // when it was read
	readAt time.Time
	eager  bool // read because of a wake, and not tried yet

	shelved bool // waits aside; its body is read again before it is sent
	bare    int  // the size of that body
}

// size is that of the event's body, also while it is not here.
func (it *item) size() int { return max(it.bare, len(it.event.Payload)) }

// page is what one read of a span found, or a mark: something to be done with the span's cursor when all
// pages before it are done.
type page struct {
	end  position // how far the span is published when this and all before it are done
	left int      // events not done yet

	release []int16 // mark: buckets to give away
	absorb  *span   // mark: a span whose buckets are to come under this one's cursor
}

func (p *page) mark() bool { return p.release != nil || p.absorb != nil }

// span is a set of buckets that have been read equally far, and one row of outbox_cursor.
//
//	saved <= acked <= read:  persisted, published, read
type span struct {
	cursor  int64
	buckets []int16
	read    position
	acked   position
	dirty   bool    // events were published since the last checkpoint
	pages   []*page // read, in order; the first is not done
}

// complete says that the span is at the end of a pair: its next read begins with a new snapshot.
func (s *span) complete() bool { return s.read.cur == "" }

// advance moves acked over the pages that are done, up to a mark. It returns the mark if that is next.
func (s *span) advance() *page {
	for len(s.pages) > 0 {
		p := s.pages[0]
		if p.left > 0 && !failpoint.Mutant("outbox.cursor-before-ack") {
			return nil
		}
		s.acked = p.end
		if p.mark() {
			return p
		}
		s.dirty = true
		s.pages = s.pages[1:]
	}
	s.acked = s.read // what is between held no event of ours
	return nil
}

// compact forgets pages that are done, but not the first: the one before says how far they came. While an event waits, pages are read for
// hours.
func (s *span) compact() {
	kept := s.pages[:0]
	for _, p := range s.pages {
		if k := len(kept); k > 0 && p.left == 0 && !p.mark() && !kept[k-1].mark() {
			kept[k-1].end = p.end
			continue
		}
		kept = append(kept, p)
	}
	clear(s.pages[len(kept):])
	s.pages = kept
}

// share is how many of n buckets the relay of that rank gets, of so many relays.
func share(n, relays, rank int) int {
	if relays < 1 {
		return n
	}
	share := n / relays
	if rank < n%relays {
		share++
	}
	return share
}

// backoff doubles first with each failure after the first, up to most, and spreads it by jitter (0 to 1).
func backoff(first, most time.Duration, failures int, jitter float64) time.Duration {
	d := first
	for range failures - 1 {
		if d *= 2; d >= most {
			break
		}
	}
	d = min(d, most)
	return d/2 + time.Duration(jitter*float64(d/2))
}
