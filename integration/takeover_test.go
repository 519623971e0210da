//go:build unix

package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// slack is the noise of a machine that does much else: a take-over is measured, and logged, against its promise, and fails
// the test only beyond promise and slack. What is measured does not run beside the heavy tests, which are parallel ones.
const slack = 2 * time.Second

// gated starts an order whose step waits at a gate.
func (w *world) gated(step string, o Order) (id string, g *gate) {
	o.ID = "gated " + step
	o.Gates = []string{step}
	g = w.outside.gate(w.t, o.ID, step)
	return w.start(o), g
}

// takenOver waits for the second who comes to a gate, who must be another than the first.
func (w *world) takenOver(g *gate, since time.Time, promise time.Duration) {
	w.t.Helper()
	first, second := w.outside.arrival(w.t, g, 1), w.outside.arrival(w.t, g, 2)
	took := second.at.Sub(since)
	w.t.Logf("taken over after %d ms", took.Milliseconds())
	if second.worker == first.worker {
		w.t.Errorf("%s took over from itself", first.worker)
	}
	if took > promise+slack {
		w.t.Errorf("taken over after %v, want %v", took, promise)
	}
}

// two starts two workers and tells, once somebody stands at the gate, which of them that is.
func two(w *world, o workerOptions) (at func(*gate) (there, other *process)) {
	a, b := w.launch(o), w.launch(o)
	a.ready(w.t)
	b.ready(w.t)
	return func(g *gate) (*process, *process) {
		if w.outside.arrival(w.t, g, 1).worker == a.id {
			return a, b
		}
		return b, a
	}
}

// steps in all the ways in which a lane comes to one: the first of a saga, in a line, behind a fan-out, at a join; forward
// and back; in Postgres and outside.
var gatedSteps = []string{"reserve", "charge", "pack", "label", "ship", "tell", "undo ship", "undo charge", "undo reserve"}

// back makes an order turn back if step is an undo.
func back(step string) Order {
	if len(step) > 5 && step[:5] == "undo " {
		return Order{Faults: map[string]string{"tell": terminal}}
	}
	return Order{}
}

func TestKilledWorkerIsReplacedByAnother(t *testing.T) {
	modes(t, func(t *testing.T, jobPerStep bool) {
		for _, step := range gatedSteps {
			t.Run(step, func(t *testing.T) {
				w := newWorld(t)
				at := two(w, workerOptions{JobPerStep: jobPerStep})
				id, g := w.gated(step, back(step))
				victim, _ := at(g)
				killed := time.Now()
				victim.kill()
				w.takenOver(g, killed, 2*time.Second)
				s := w.wait(id)
				switch {
				case step == "reserve" && !jobPerStep: // its claim is taken by its commit, so nobody knows who tried
				case step[:4] == "undo":
					wantAttempts(t, s, step[5:], "crash")
				default:
					wantAttempts(t, s, step, "crash")
				}
				w.audit()
			})
		}
	})
}

func TestKilledWorkerIsReplacedByANewOne(t *testing.T) {
	modes(t, func(t *testing.T, jobPerStep bool) {
		for _, step := range []string{"reserve", "charge", "ship"} {
			w := newWorld(t)
			victim := w.worker(workerOptions{JobPerStep: jobPerStep})
			id, g := w.gated(step, Order{})
			w.outside.arrival(t, g, 1)
			victim.kill()
			victim.wait(t)
			w.worker(workerOptions{JobPerStep: jobPerStep})
			begun := time.Now()
			w.takenOver(g, begun, 2*time.Second)
			w.wait(id)
			w.audit()
		}
	})
}

func TestStoppedWorkerIsReplacedAndDoesNothingTwice(t *testing.T) {
	const lease = 2 * time.Second
	modes(t, func(t *testing.T, jobPerStep bool) {
		// At reserve and ship it holds the locks of rows, and at reserve one that all others want too.
		for _, step := range []string{"reserve", "charge", "ship", "undo charge", "undo reserve"} {
			t.Run(step, func(t *testing.T) {
				w := newWorld(t)
				at := two(w, workerOptions{JobPerStep: jobPerStep, Lease: lease})
				id, g := w.gated(step, back(step))
				victim, _ := at(g)
				stopped := time.Now()
				victim.stop()
				w.takenOver(g, stopped, lease+time.Second)
				w.wait(id)
				w.outside.open(g)
				victim.wake()

				// It is alive and well: it works when it is alone.
				w.works(victim)
				s := w.wait(id)
				if slices.ContainsFunc(s.Steps, func(s pgengine.StepStatus) bool { return s.Generation > 1 }) {
					t.Errorf("the woken worker recorded something: %+v", s.Steps)
				}
				w.audit()
			})
		}
	})
}

// works proves that a worker, among others, takes sagas.
func (w *world) works(p *process) {
	w.t.Helper()
	eventually(w.t, patience, "the woken worker works", func() bool {
		s := w.wait(w.start(Order{}))
		return slices.ContainsFunc(s.Steps, func(s pgengine.StepStatus) bool { return s.Worker == p.id })
	})
}

// A saga is cancelled, and undone in doubt, while the worker whose call had gone through stands still. What it brings when it
// wakes is nothing new to an outside that remembers undone keys; to be sure it is recorded and undone once more.
func TestResultThatComesAfterItsUndo(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	modes(t, func(t *testing.T, jobPerStep bool) {
		for _, step := range []string{"charge", "label"} {
			w := newWorld(t)
			at := two(w, workerOptions{JobPerStep: jobPerStep, Lease: lease})
			id, g := w.gated(step, Order{})
			victim, _ := at(g)
			w.cancel(id) // it waits for the call to end
			victim.stop()
			if s := w.wait(id); s.State != pgengine.Compensated {
				t.Errorf("the saga is %s", s.State)
			}
			w.audit()
			w.outside.open(g)
			victim.wake()
			eventually(t, patience, "the late result is recorded and undone", func() bool {
				s := w.wait(id)
				return slices.ContainsFunc(s.Steps, func(s pgengine.StepStatus) bool {
					// Done: the saga may have been reopened since wait saw its first end, and the undo be under way.
					return s.Step == step && s.Direction == pgengine.Undo && s.Generation == 2 && s.State == "done"
				})
			})
			if e := w.outside.key(id + "/" + step); e.Undos < 2 {
				t.Errorf("outside the late effect was not undone: %+v, %+v", e, w.wait(id).Steps)
			}
			w.wait(id)
			w.audit()
		}
	})
}
