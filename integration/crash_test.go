//go:build unix && failpoint

package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// A worker kills itself at a point where that could matter, in the midst of sagas of all kinds, and another one ends them.
func TestCrashAtEveryPoint(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		random := seeded(t)
		for _, point := range pointsOf("") {
			if jobPerStep && strings.HasPrefix(point, "fuse.") {
				continue // no two steps share a transaction then
			}
			// Each point is hit at least three times by the sagas below, by one worker that does not die.
			hit := 1 + random.IntN(3)
			t.Run(fmt.Sprintf("%s_%d", point, hit), func(t *testing.T) {
				w := newWorld(t)
				o := workerOptions{JobPerStep: jobPerStep, Lease: time.Second}
				victim := o
				victim.Failpoint, victim.Hit = point, hit
				var cancelled []string
				for i := range 3 {
					for n, order := range allKinds() {
						order.ID, order.Shelf = fmt.Sprintf("%d-%d", i, n), i
						w.start(order)
					}
					cancelled = append(cancelled, w.start(Order{ID: fmt.Sprintf("%d-cancelled", i), Faults: map[string]string{"label": slow, "tell": slow}}))
				}
				w.depart(6)
				p := w.launch(victim) // it may die before it says that it has started
				for _, id := range cancelled {
					w.cancel(id)
				}
				if sig := p.wait(t); sig != syscall.SIGKILL {
					t.Fatalf("the worker ended with %v: %s was not reached %d times", p.cmd.ProcessState, point, hit)
				}
				w.worker(o)
				w.allEnd(patience)
				w.audit()
			})
		}
	})
}

// pointsOf are the points of a package; "": of the engine, which are those of no other.
func pointsOf(prefix string) (points []string) {
	for _, p := range failpoint.Points() {
		of := ""
		for _, other := range []string{"outbox.", "inbox."} {
			if strings.HasPrefix(p, other) {
				of = other
			}
		}
		if of == prefix {
			points = append(points, p)
		}
	}
	return points
}

// depart starts n convoys, half of which turn back.
func (w *world) depart(n int) {
	w.t.Helper()
	for i := range n {
		err := pgx.BeginFunc(w.t.Context(), w.pool, func(tx pgx.Tx) error {
			_, err := w.engine.Start(w.t.Context(), tx, Convoy{Fail: i%2 == 1}, nil)
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}
