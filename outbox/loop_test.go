package outbox

import "testing"

// TestADoneEventLeavesNoBody: what was read at once lies in one array, which an event that waits keeps.
func TestADoneEventLeavesNoBody(t *testing.T) {
	l := newLoop(&Relay{cfg: Config{Parallel: 1}}, nil)
	p := &page{left: 2}
	items := []item{
		{page: p, event: Event{Payload: make([]byte, 100), Headers: map[string]string{"a": "b"}}},
		{page: p, shelved: true, event: Event{Payload: make([]byte, 100)}}, // it was read again to be sent
	}
	l.outstanding, l.bytes, l.shelved = 1, 100, 1
	for i := range items {
		l.done(&items[i])
		if e := items[i].event; e.Payload != nil || e.Headers != nil {
			t.Errorf("event %d is done, and has a body of %d bytes and %d headers", i, len(e.Payload), len(e.Headers))
		}
	}
	if l.outstanding != 0 || l.bytes != 0 || l.shelved != 0 || p.left != 0 {
		t.Errorf("outstanding are %d events of %d bytes, shelved %d, %d left of the page; want none", l.outstanding, l.bytes, l.shelved, p.left)
	}
}
