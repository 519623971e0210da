//go:build unix

package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	chaosSagas = flag.Int("sagas", 300, "how many sagas the chaos test runs")
	chaosSeed  = flag.Uint64("seed", 0, "of the chaos and the crash tests; 0: another one each time")
)

// seeded makes a source of chance and prints its seed.
func seeded(t testing.TB) *rand.Rand {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: repeat with -seed %d", seed, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Three workers are killed, stopped for longer and shorter than their lease, ended and replaced at random, and sagas are
// cancelled. Then they are left alone, and everything ends.
func TestChaos(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		const chaos, calm = 15 * time.Second, 30 * time.Second
		random := seeded(t)
		w := newWorld(t)
		o := workerOptions{JobPerStep: jobPerStep, Lease: time.Second, Grace: 500 * time.Millisecond}
		var workers [3]*process
		for i := range workers {
			workers[i] = w.launch(o)
		}
		started, begin := []string{}, time.Now()
		kinds := allKinds()
		next := func() { // sagas come evenly over the whole of the chaos
			for len(started) < *chaosSagas && time.Since(begin) > chaos*time.Duration(len(started))/time.Duration(*chaosSagas) {
				order := kinds[random.IntN(len(kinds))]
				order.ID, order.Shelf = fmt.Sprintf("chaos-%d", len(started)), random.IntN(shelves)
				started = append(started, w.start(order))
			}
		}
		did := map[string]int{}
		for time.Since(begin) < chaos || len(started) < *chaosSagas {
			next()
			i := random.IntN(len(workers))
			switch p := workers[i]; random.IntN(12) {
			case 0:
				did["kill"]++
				p.kill()
			case 1:
				did["term"]++
				p.term()
			case 2, 3:
				did["stop"]++
				p.stop()
			case 4, 5, 6:
				p.wake()
			case 7, 8, 9:
				if len(started) > 0 {
					did["cancel"]++
					w.cancel(started[len(started)-1-random.IntN(min(20, len(started)))])
				}
			}
			for i, p := range workers {
				if !p.alive() {
					workers[i] = w.launch(o)
				}
			}
			time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond) // the chaos's own pace
		}
		t.Log(did)
		for i, p := range workers {
			p.wake()
			if p.termed { // it is ending, or it will be now that it is awake: nobody else would take its place
				p.wait(t)
			}
			if !p.alive() {
				workers[i] = w.launch(o)
			}
		}
		left := time.Now()
		w.allEnd(2 * calm) // twice, for the noise of the machine
		if took := time.Since(left); took > calm {
			t.Logf("slow: the end took %v, want %v", took.Round(time.Millisecond), calm)
		}
		w.audit()
	})
}
