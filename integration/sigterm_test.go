//go:build unix

package integration

import (
	"testing"
	"time"
)

// A worker that is asked to end takes nothing new and lets its step end.
func TestTermWaitsForTheStepAndLeavesTheRest(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		for _, step := range []string{"reserve", "charge", "pack", "undo ship"} {
			w := newWorld(t)
			at := two(w, workerOptions{JobPerStep: jobPerStep})
			id, g := w.gated(step, back(step))
			leaving, other := at(g)
			leaving.term()
			before := w.wait(w.start(Order{Shelf: 1})) // it takes nothing: the other does all of it
			for _, s := range before.Steps {
				if s.Worker != other.id && time.Since(before.CreatedAt) > time.Second {
					t.Errorf("%s was worked by %s after it had been asked to end", s.Step, s.Worker)
				}
			}
			w.outside.open(g)
			if sig := leaving.wait(t); sig != 0 || leaving.cmd.ProcessState.ExitCode() != 0 {
				t.Errorf("the worker ended with %v", leaving.cmd.ProcessState)
			}
			s := w.wait(id)
			for _, a := range s.Attempts {
				if a.Kind == "crash" || a.Step != "tell" {
					t.Errorf("an attempt was burnt: %+v", a)
				}
			}
			w.outside.mu.Lock()
			if n := len(g.arrivals); n != 1 {
				t.Errorf("%s was begun %d times: %v", step, n, g.arrivals)
			}
			w.outside.mu.Unlock()
			w.audit()
		}
	})
}

// After its grace it cuts the step off and hands it back, at once: another goes on.
func TestTermHandsBackAfterTheGrace(t *testing.T) {
	modes(t, func(t *testing.T, jobPerStep bool) {
		for _, step := range []string{"reserve", "charge", "pack", "label", "undo ship", "undo charge"} {
			t.Run(step, func(t *testing.T) {
				w := newWorld(t)
				const grace = 300 * time.Millisecond
				at := two(w, workerOptions{JobPerStep: jobPerStep, Grace: grace})
				id, g := w.gated(step, back(step))
				leaving, _ := at(g)
				asked := time.Now()
				leaving.term()
				w.takenOver(g, asked.Add(grace), 300*time.Millisecond)
				// The promise is some 100 ms. Without the hand-back it is that of a killed worker, or River's second.
				if took := w.outside.arrival(t, g, 2).at.Sub(asked.Add(grace)); took > 900*time.Millisecond {
					t.Errorf("the step was begun again %v after the grace", took)
				}
				if sig := leaving.wait(t); sig != 0 || leaving.cmd.ProcessState.ExitCode() != 0 {
					t.Errorf("the worker ended with %v", leaving.cmd.ProcessState)
				}
				s := w.wait(id)
				for _, a := range s.Attempts {
					if a.Kind == "crash" || a.Step != "tell" {
						t.Errorf("an attempt was burnt: %+v", a)
					}
				}
				w.audit()
			})
		}
	})
}

// A step that does not listen is left behind; the process ends all the same, and the step begins again elsewhere.
func TestTermLeavesADeafStepBehind(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		for _, step := range []string{"reserve", "charge", "ship"} {
			t.Run(step, func(t *testing.T) {
				w := newWorld(t)
				at := two(w, workerOptions{JobPerStep: jobPerStep, Grace: 200 * time.Millisecond})
				id, g := w.gated(step, Order{Deaf: true})
				leaving, _ := at(g)
				asked := time.Now()
				leaving.term()
				leaving.wait(t)
				t.Logf("the worker ended after %v", time.Since(asked).Round(time.Millisecond))
				w.takenOver(g, asked.Add(5200*time.Millisecond), 2*time.Second)
				w.wait(id)
				w.audit()
			})
		}
	})
}
