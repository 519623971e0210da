package pgengine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// branches is a saga of two branches: "bad" fails while "slow" is inside its call.
type branches struct {
	calls  *calls
	inside chan struct{}
	slow   func(context.Context) (string, error)
}

func (b *branches) saga(s pgengine.Strategy, tx bool) pgengine.Saga[fault] {
	root := b.calls.does("root", nil)
	bad := b.calls.does("bad", nil, root)
	bad.Do = func(context.Context, faultCall) (string, error) {
		<-b.inside
		return "", pgengine.Terminal(errNo)
	}
	act := b.calls.does("slow", nil, root)
	act.Timeout = time.Minute
	act.Retry = pgengine.Retry{MaxAttempts: 5, Initial: time.Millisecond}
	act.Do = func(ctx context.Context, k faultCall) (string, error) {
		if k.Attempt == 1 && k.Key() == k.DoKey() {
			select {
			case <-b.inside:
				return "", pgengine.Terminal(errNo) // repeated to learn how it ended: it had no effect
			default:
			}
		}
		close(b.inside)
		return b.slow(ctx)
	}
	var slow pgengine.Step[fault] = act
	if tx {
		slow = txs[string]{
			Name: "slow", After: steps(root), Retry: act.Retry, Timeout: time.Minute,
			Do:   func(ctx context.Context, _ pgx.Tx, k faultCall) (string, error) { return act.Do(ctx, k) },
			Undo: func(ctx context.Context, _ pgx.Tx, k faultCall, r string) error { return act.Undo(ctx, k, r) },
		}
	}
	return pgengine.Saga[fault]{Version: 1, OnFailure: s, Steps: steps(root, bad, slow)}
}

// cutOff is a call that lasts until it is cut off, and how long that took since gate.
func cutOff(ctx context.Context) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(40 * time.Second):
		return "slow's", nil
	}
}

func TestStrategies(t *testing.T) {
	t.Parallel()
	ends := func(after time.Duration) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { time.Sleep(after); return "slow's", nil } // deaf to its context
	}
	for name, test := range map[string]struct {
		strategy pgengine.Strategy
		slow     func(context.Context) (string, error)
		activity string // what is undone, in order, if slow is an Activity
		tx       string // and if it is a TxStep, which is rolled back
	}{
		"wait all":                          {pgengine.WaitAll, ends(300 * time.Millisecond), "root -slow -root", "root -root"},
		"fail fast":                         {pgengine.FailFast, cutOff, "root -slow -root", "root -root"},
		"fail fast, and it does not listen": {pgengine.FailFast, ends(300 * time.Millisecond), "root -slow -root", "root -root"},
		"grace, and it makes it":            {pgengine.FailFastGrace(30 * time.Second), ends(300 * time.Millisecond), "root -slow -root", "root -root"},
		"grace, and it does not":            {pgengine.FailFastGrace(300 * time.Millisecond), cutOff, "root -slow -root", "root -root"},
	} {
		for _, tx := range []bool{false, true} {
			for _, apart := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, tx %v, two workers %v", name, tx, apart), func(t *testing.T) {
					t.Parallel()
					b := &branches{calls: &calls{}, inside: make(chan struct{}), slow: test.slow}
					pool := sqltest.New(t)
					saga := b.saga(test.strategy, tx)
					e := engine(t, pool, saga)
					if apart { // each of them has room for one lane, so that the branches are apart
						for range 2 {
							workWith(t, engine(t, pool, saga), jobs.Config{MaxWorkers: 1})
						}
					} else {
						workWith(t, e, jobs.Config{})
					}
					begun := time.Now()
					id := start(t, e, fault{}, nil).ID
					if got := wait(t, e, id); got[pgengine.Compensated] != 1 {
						t.Fatal(got)
					}
					want := test.activity
					if tx {
						want = test.tx
					}
					if got := strings.TrimSpace(b.calls.String()); got != want {
						t.Errorf("called %q, want %q", got, want)
					}
					if took := time.Since(begun); took > 30*time.Second {
						t.Errorf("it took %v: nobody cut the slow branch off", took)
					}
				})
			}
		}
	}
}

// What does not hear of its saga's turn, as every message was lost, hears of it by looking.
func TestFailFastWithoutNotify(t *testing.T) {
	t.Parallel()
	b := &branches{calls: &calls{}, inside: make(chan struct{}), slow: cutOff}
	pool := sqltest.New(t)
	saga := b.saga(pgengine.FailFast, false)
	for range 2 {
		workWith(t, engine(t, pool, saga), jobs.Config{MaxWorkers: 1, NoListen: true})
	}
	e := engine(t, pool, saga)
	id := start(t, e, fault{}, nil).ID
	if got := wait(t, e, id); got[pgengine.Compensated] != 1 || b.calls.String() != "root -slow -root" {
		t.Fatal(got, b.calls)
	}
}

// Nothing is undone while a branch that was cut off is still inside its call.
func TestNothingIsUndoneBeforeABranchHasEnded(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var order []string
	note := func(s string) { mu.Lock(); defer mu.Unlock(); order = append(order, s) }
	b := &branches{calls: &calls{}, inside: make(chan struct{}), slow: func(ctx context.Context) (string, error) {
		<-ctx.Done()
		time.Sleep(500 * time.Millisecond) // it takes its time to end
		note("ended")
		return "slow's", nil
	}}
	saga := b.saga(pgengine.FailFast, false)
	root := saga.Steps[0].(act[string])
	undo := root.Undo
	root.Undo = func(ctx context.Context, k faultCall, r string) error { note("undone"); return undo(ctx, k, r) }
	saga = b.saga(pgengine.FailFast, false)
	e := engine(t, sqltest.New(t), replaceRoot(saga, root))
	workWith(t, e, jobs.Config{})
	if got := wait(t, e, start(t, e, fault{}, nil).ID); got[pgengine.Compensated] != 1 {
		t.Fatal(got)
	}
	if !slices.Equal(order, []string{"ended", "undone"}) {
		t.Errorf("%v", order)
	}
}

// replaceRoot puts another first step before both branches.
func replaceRoot(s pgengine.Saga[fault], root act[string]) pgengine.Saga[fault] {
	bad, slow := s.Steps[1].(act[string]), s.Steps[2].(act[string])
	bad.After, slow.After = steps(root), steps(root)
	s.Steps = steps(root, bad, slow)
	return s
}
