package pgengine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTogether: who comes alone goes at once; who come while as many commits are under way as may be go together, each once, as soon as
// one has ended.
func TestTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTogether(func(int) int { return 0 })
		var mu sync.Mutex
		var calls [][]int
		commit := func(_ context.Context, all []int) ([]bool, error) {
			mu.Lock()
			calls = append(calls, slices.Sorted(slices.Values(all)))
			mu.Unlock()
			time.Sleep(time.Second)
			done := make([]bool, len(all))
			for i, n := range all {
				done[i] = n%2 == 0
			}
			return done, nil
		}
		begun := time.Now()
		var ended [7]time.Duration
		var wg sync.WaitGroup
		for n := range ended {
			wg.Go(func() {
				ok, err := g.do(t.Context(), n, commit)
				if err != nil || ok != (n%2 == 0) {
					t.Errorf("%d: %v, %v", n, ok, err)
				}
				ended[n] = time.Since(begun)
			})
			synctest.Wait() // in this order
		}
		wg.Wait()
		if len(calls) != 3 || !slices.Equal(calls[0], []int{0}) || !slices.Equal(calls[1], []int{1}) || !slices.Equal(calls[2], []int{2, 3, 4, 5, 6}) {
			t.Errorf("committed together: %v", calls)
		}
		for n, took := range ended {
			if want := time.Duration(1+min(n/2, 1)) * time.Second; took != want {
				t.Errorf("%d has ended after %v, want %v", n, took, want)
			}
		}
	})
}

// TestTogetherIsBounded: no commit has more than togetherMost entries, or much more than togetherBytes, and one that is larger goes all the same.
func TestTogetherIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTogether(func(bytes int) int { return bytes })
		var done atomic.Int64
		act := func(_ context.Context, all []int) ([]bool, error) {
			time.Sleep(time.Second)
			sum := 0
			for _, bytes := range all {
				sum += bytes
			}
			if len(all) > togetherMost || len(all) > 1 && sum > togetherBytes+all[0] {
				t.Errorf("%d entries of %d bytes", len(all), sum)
			}
			done.Add(int64(len(all)))
			return make([]bool, len(all)), nil
		}
		var wg sync.WaitGroup
		for n := range 500 {
			wg.Go(func() { _, _ = g.do(t.Context(), []int{1, togetherBytes / 10, 2 * togetherBytes}[n%3], act) })
		}
		wg.Wait()
		if done.Load() != 500 || len(g.waiting) > 0 {
			t.Errorf("%d of 500 are done, %d wait", done.Load(), len(g.waiting))
		}
	})
}

// TestTogetherFails: all hear of what kept the one who acted for them, also if he has panicked, or his own time is up.
func TestTogetherFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newTogether(func(int) int { return 0 })
		away := errors.New("away")
		gone, cancel := context.WithCancel(t.Context())
		defer cancel()
		var heard [8]error
		var wg sync.WaitGroup
		for n := range heard {
			wg.Go(func() {
				defer func() { _ = recover() }()
				_, heard[n] = g.do(gone, n, func(ctx context.Context, all []int) ([]bool, error) {
					cancel()
					time.Sleep(time.Second)
					if err := ctx.Err(); err != nil {
						return nil, err
					}
					if slices.Contains(all, 5) {
						panic("oh")
					}
					return nil, away
				})
			})
			synctest.Wait()
		}
		wg.Wait()
		told := 0
		for n, err := range heard {
			switch {
			case n < commits && err != away:
				t.Errorf("%d heard %v", n, err)
			case errors.Is(err, errNotTold):
				told++
			}
		}
		if told != len(heard)-commits-1 { // but for the one that has panicked
			t.Errorf("of those who went with the panic %d heard of it: %v", told, heard)
		}
		if _, err := g.do(t.Context(), 9, func(context.Context, []int) ([]bool, error) { return []bool{true}, nil }); err != nil {
			t.Errorf("after the panic: %v", err)
		}
	})
}
