package pgengine

import (
	"context"
	"errors"
	"slices"
	"sync"
)

const (
	togetherMost  = 100     // entries of one commit
	togetherBytes = 1 << 20 // of what they carry, but for the first
)

// together does in one commit what goroutines want at about the same time: whoever comes while no commit is under way goes at once, and
// those who come meanwhile go with the next. So nobody waits for company, and under load a commit is shared by many.
//
//	lane 1   do ── commit(1) ──────┐
//	lane 2      do ···· waits ···· │ commit(2, 3, 4) ─── told
//	lane 3         do ············ │ ··················· told
//	lane 4            do ········· │ ··················· told
//
// Nothing runs by itself: of those who wait, one gets the turn and acts for all.
type together[T any] struct {
	turns chan struct{} // holds one for each commit under way
	size  func(T) int   // in bytes

	mu      sync.Mutex
	waiting []*entry[T]
}

type entry[T any] struct {
	what  T
	taken bool // by whoever acts for it
	told  chan struct{}
	ok    bool
	err   error
}

// commits is how many may be under way: while one waits for the disk, the other works.
const commits = 2

func newTogether[T any](size func(T) int) *together[T] {
	return &together[T]{turns: make(chan struct{}, commits), size: size}
}

// errNotTold: nobody knows what has become of it.
var errNotTold = &noAnswerError{errors.New("whoever acted for others has panicked")}

// do has act called with what, alone or in company. act says for which it has happened; ok: for this one. Its error is that of all
// it was called with.
func (g *together[T]) do(ctx context.Context, what T, act func(context.Context, []T) ([]bool, error)) (ok bool, err error) {
	me := &entry[T]{what: what, told: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, me)
	g.mu.Unlock()
	select {
	case <-me.told:
	case g.turns <- struct{}{}:
		g.lead(ctx, me, act)
		<-me.told // by ourselves, or by whoever had taken us along
	}
	return me.ok, me.err
}

// lead acts for me and for who waits, and gives the turn back.
func (g *together[T]) lead(ctx context.Context, me *entry[T], act func(context.Context, []T) ([]bool, error)) {
	defer func() { <-g.turns }()
	all := g.take(me)
	if all == nil {
		return
	}
	oks, err := make([]bool, len(all)), error(errNotTold)
	defer func() {
		for i, x := range all {
			x.ok, x.err = err == nil && oks[i], err
			close(x.told)
		}
	}()
	what := make([]T, len(all))
	for i, x := range all {
		what[i] = x.what
	}
	// The end of whoever has the turn is not the others'.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	oks, err = act(ctx, what)
}

// take takes me and as many others as fit; nil: somebody else has me already.
func (g *together[T]) take(me *entry[T]) []*entry[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if me.taken {
		return nil
	}
	all, bytes := []*entry[T]{me}, 0
	for _, x := range g.waiting {
		if x != me && len(all) < togetherMost && bytes+g.size(x.what) <= togetherBytes {
			all = append(all, x)
			bytes += g.size(x.what)
		}
	}
	for _, x := range all {
		x.taken = true
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(x *entry[T]) bool { return x.taken })
	return all
}
