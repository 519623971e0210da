package outbox

import "context"

// shelve makes room for more reading by forgetting the bodies of events that wait for a part of the broker: behind them may be
// some for the rest of it. It does not ask whether that still works. The window may be full of what does not get through, so that
// nothing could show it. Keys come aside only while others get through, or of a topic of which nothing has,
// and what is read of the others stays in the window: in an outage of all of the broker the reading ends there, or where the shelf is full.
func (l *loop) shelve() {
	for _, x := range l.lanes {
		for _, it := range x.aside.queue {
			if it.hold != nil || it.shelved || l.shelved >= shelf {
				continue
			}
			l.outstanding--
			l.bytes -= len(it.event.Payload)
			l.shelved++
			it.shelved = true
			it.strip()
		}
	}
}

// strip leaves of an event what is needed to wait in line.
func (it *item) strip() {
	e := it.event
	it.bare = len(e.Payload)
	it.event = Event{Sequence: e.Sequence, ID: e.ID, Topic: e.Topic, Key: e.Key}
}

// fetching reads the bodies of a batch again, and sends it.
func (l *loop) fetching() op {
	x := l.bare[0]
	l.bare = l.bare[1:]
	batch := x.inFlight
	var ids []int64
	for _, it := range batch {
		if it.shelved {
			ids = append(ids, it.event.Sequence)
		}
	}
	return func(ctx context.Context, s *session) (func(), error) {
		events, err := s.again(ctx, ids)
		return func() {
			for _, it := range batch {
				if it.shelved {
					it.event = events[it.event.Sequence]
				}
			}
			l.call(x, batch)
		}, err
	}
}
