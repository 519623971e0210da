package pgengine_test

import (
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Of a step that fails without end the first attempts are kept, and the last: its saga does not grow for ever.
func TestAttemptsDoNotGrowWithoutEnd(t *testing.T) {
	const fails = 140
	c := &calls{}
	tries := 0
	a := c.does("a", func(faultCall) error {
		if tries++; tries <= fails {
			return errNo
		}
		return nil
	})
	a.Retry = pgengine.Retry{MaxAttempts: fails + 1, Initial: time.Second, Max: time.Second}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a)}, c)
	id := p.Start(fault{})
	p.Run()
	s := p.Get(id)
	if s.State != pgengine.Completed || s.Steps[0].Attempt != fails+1 {
		t.Fatalf("%s, %+v", s.State, s.Steps)
	}
	var kept []int
	for _, at := range s.Attempts {
		kept = append(kept, at.Attempt)
	}
	if len(kept) != 100 || kept[0] != 1 || kept[49] != 50 || kept[50] != fails-49 || kept[99] != fails {
		t.Errorf("kept are %v, want the first 50 and the last 50 of %d", kept, fails)
	}
}
