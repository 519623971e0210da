package pgengine_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// What hostile users, operators and circumstances do to lines.

// The slots of those who have left a line go to those who come after.
func TestCancelledInALineOfARate(t *testing.T) {
	t.Parallel()
	h := newHouse(t, visits(1, time.Second, pgengine.Limit[visit]{Name: "rate", Rate: 1, Per: time.Minute}))
	var ids []string
	for range 50 {
		ids = append(ids, h.visit(1, ""))
	}
	h.Settle()
	for _, id := range ids[1:] {
		h.Tx(func(tx pgx.Tx) error { return h.Engine.Cancel(t.Context(), tx, id, pgengine.By{Reason: "mistake"}) })
	}
	h.Settle()
	last := h.visit(1, "")
	h.Run()
	h.wantBegan("the next", last, 60)
}

// A rate that was wrong by far is set right: who waits waits by the new one, at once if somebody comes, and within five minutes if nobody does.
func TestARateIsRaised(t *testing.T) {
	t.Parallel()
	wrong, right := visits(1, time.Second, pgengine.Limit[visit]{Name: "rate", Rate: 1, Per: time.Hour}), visits(1, time.Second, pgengine.Limit[visit]{Name: "rate", Rate: 1})
	for _, comes := range []bool{true, false} {
		h := newHouse(t, wrong)
		after, err := pgengine.New(h.Engine.Pool(), pgengine.Config{Sagas: []pgengine.Definition{right}, Logger: quiet, NoWake: true})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for range 20 {
			ids = append(ids, h.visit(1, ""))
		}
		h.Settle()
		h.Engine = after
		within := 300
		if comes {
			ids = append(ids, h.visit(1, ""))
			within = 1
		}
		h.Run()
		if second, last := h.began(ids[1]), h.began(ids[len(ids)-1]); second > within || last != second+len(ids)-2 {
			t.Errorf("somebody comes: %v; the second began at second %d and the last at %d, want one each second", comes, second, last)
		}
	}
}

// A saga that was paused before it began takes no place.
func TestPausedBeforeItBegan(t *testing.T) {
	t.Parallel()
	h := newHouse(t, visits(1, time.Second, pgengine.Limit[visit]{Name: "seat", Concurrency: 1}))
	a := h.visit(1, "")
	h.Tx(func(tx pgx.Tx) error { return h.Engine.Pause(t.Context(), tx, a, pgengine.By{Reason: "wait"}) })
	if err := h.Engine.Run(t.Context(), pgengine.Ticket{SagaID: a, Name: "visit", Version: 1}, pgengine.RunOptions{Worker: "sandbox 0"}); err != nil {
		t.Fatal(err)
	}
	h.Settle()
	b := h.visit(1, "")
	h.Run()
	h.wantBegan("b", b, 0)
	h.wantBegan("a", a, -1)
	h.Tx(func(tx pgx.Tx) error { return h.Engine.Resume(t.Context(), tx, a, pgengine.By{Reason: "go"}) })
	h.Run()
	if h.Get(a).State != pgengine.Completed {
		t.Errorf("a is %s", h.Get(a).State)
	}
}
