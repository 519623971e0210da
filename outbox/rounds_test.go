package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// eventsOf makes one of each word: key, target and number, as aX1.
func eventsOf(words string) []outbox.Event {
	var events []outbox.Event
	for _, w := range strings.Fields(words) {
		events = append(events, outbox.Event{Key: strings.Trim(w[:1], "-"), Topic: w[1:2], Type: w})
	}
	return events
}

func TestRounds(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		events, refuse string
		oneAKey        bool
		lots           []string // that were sent, sorted
		answers        string   // of each event: + acknowledged, - refused, h held
	}{
		{events: "aX1 bX1 aX2 cX1", lots: []string{"aX1 bX1 aX2 cX1"}, answers: "++++"},
		{events: "aX1 bX1 aY2 cY1 aX3", lots: []string{"aX1 bX1", "aX3", "aY2", "cY1"}, answers: "+++++"},
		{events: "aX1 bX1 aY2 cY1 aX3", refuse: "aY2", lots: []string{"aX1 bX1", "aY2", "cY1"}, answers: "++-+h"},
		{events: "aX1 bX1 aY2 cY1 aX3", refuse: "aX1", lots: []string{"aX1 bX1", "cY1"}, answers: "-+h+h"},
		{events: "aX1 aX2 bX1 aX3 bX2", oneAKey: true, lots: []string{"aX1 bX1", "aX2 bX2", "aX3"}, answers: "+++++"},
		{events: "aX1 aX2 bX1 aX3 bX2", oneAKey: true, refuse: "aX2", lots: []string{"aX1 bX1", "aX2 bX2"}, answers: "+-+h+"},
		{events: "-X1 -Y2 -X3", oneAKey: true, refuse: "-X1", lots: []string{"-X1 -X3", "-Y2"}, answers: "-++"}, // without a key: no order
		{events: "", answers: ""},
	} {
		var mu sync.Mutex
		var lots []string
		acknowledged := map[string]string{} // the last one of a key
		r := outbox.Rounds{OneAKey: c.oneAKey, Target: func(e outbox.Event) string { return e.Topic },
			Send: func(_ context.Context, target string, lot []outbox.Event) []error {
				mu.Lock()
				defer mu.Unlock()
				errs := make([]error, len(lot))
				var words []string
				for i, e := range lot {
					if e.Topic != target || e.Key != "" && e.Type[2:] != fmt.Sprint(len(acknowledged[e.Key])+1) {
						t.Errorf("%s: %s is sent to %s after %d of its key were acknowledged", c.events, e.Type, target, len(acknowledged[e.Key]))
					}
					words = append(words, e.Type)
					if e.Type == c.refuse {
						errs[i] = refused
					} else {
						acknowledged[e.Key] += "+"
					}
				}
				lots = append(lots, strings.Join(words, " "))
				return errs
			}}
		var answers strings.Builder
		for _, err := range r.Publish(t.Context(), eventsOf(c.events)) {
			switch {
			case err == nil:
				answers.WriteByte('+')
			case errors.Is(err, outbox.ErrHeld):
				answers.WriteByte('h')
			default:
				answers.WriteByte('-')
			}
		}
		slices.Sort(lots)
		if answers.String() != c.answers || !slices.Equal(lots, c.lots) {
			t.Errorf("%s, refusing %q: answers %s, want %s; sent %q, want %q", c.events, c.refuse, answers.String(), c.answers, lots, c.lots)
		}
	}
}
