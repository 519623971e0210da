package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// waiting is a step that waits for something other than a worker.
type waiting struct {
	Step      string             `json:"step"`
	Direction pgengine.Direction `json:"direction"`
	For       string             `json:"for"`              // an attempt, a signal, a time, children, an operator
	Signal    string             `json:"signal,omitempty"` // its name
	Until     *time.Time         `json:"until,omitempty"`  // when the wait ends by itself
	// Outcomes are what an operator may say of it.
	Outcomes []pgengine.Outcome `json:"outcomes,omitempty"`
}

// waits reads off the steps what they wait for.
func (v view) waits() (all []waiting) {
	for _, t := range v.Steps {
		w := waiting{Step: t.Step, Direction: t.Direction, Until: t.NextAt}
		switch t.State {
		case "waiting":
			if t.NextAt == nil || time.Until(*t.NextAt) <= 0 {
				continue // for a worker
			}
			w.For = "an attempt"
		case "awaiting":
			w.For, w.Signal = "a signal", v.step(t.Step).Signal
		case "sleeping":
			w.For = "a time"
		case "child":
			w.For = "children"
		case "stuck":
			w.For = "an operator"
			if v.graph != nil {
				w.Outcomes, _ = v.graph.Answers(t.Step, t.Direction) // none: the worker knows better
			}
		default:
			continue
		}
		all = append(all, w)
	}
	return all
}

// step is what the definition says of one.
func (v view) step(name string) (s pgengine.GraphStep) {
	if v.graph != nil {
		if i := slices.IndexFunc(v.graph.Steps, func(s pgengine.GraphStep) bool { return s.Name == name }); i >= 0 {
			return v.graph.Steps[i]
		}
	}
	return s
}

// nextMoves say what a person can do, with what to type.
func (v view) nextMoves() (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if v.State.Ended() {
		return nil
	}
	stuck, busy := []pgengine.StepStatus{}, false
	for _, t := range v.Steps {
		name := "step " + t.Step
		if t.Direction == pgengine.Undo {
			name = "the undo of " + t.Step
		}
		switch t.State {
		case "stuck":
			stuck = append(stuck, t)
			if v.step(t.Step).ManualUndo && t.Direction == pgengine.Undo {
				say("%s is an operator's", name)
			} else {
				say("%s has given up: %s", name, clip(t.Error, 200))
			}
		case "waiting":
			busy = true
			if in := inTime(t.NextAt); in != "" {
				say("%s is tried again in %s (%d failed so far): %s", name, in, t.Attempt, clip(t.Error, 200))
				say("  now:  pgsagaz saga retry %s %s --reason '...'", v.ID, t.Step)
			} else {
				say("%s waits for a worker", name)
			}
		case "running":
			busy = true
			say("%s is running on %s", name, orDash(t.Worker))
		case "awaiting":
			busy = true
			signal := v.step(t.Step).Signal
			say("%s awaits the signal %s, %s", name, orDash(signal), forHowLong(t.NextAt))
			if signal != "" {
				say("  pgsagaz saga signal %s %s '{...}'", v.ID, signal)
			}
		case "sleeping":
			busy = true
			say("%s sleeps, %s", name, forHowLong(t.NextAt))
		case "child":
			busy = true
			children := slices.DeleteFunc(slices.Clone(v.Children), func(c pgengine.ChildStatus) bool { return c.Step != t.Step })
			say("%s waits for its children: %s", name, orDash(tally(children)))
			for _, c := range children {
				if c.State == pgengine.Stuck {
					say("  #%d is stuck: pgsagaz saga show %s", c.Item, c.ID)
				}
			}
		}
	}
	lines = append(lines, v.afterwards(stuck, busy)...)
	if v.PausedAt != nil {
		say("it is PAUSED, and begins nothing. To let it go on:  pgsagaz saga resume %s --reason '...'", v.ID)
	}
	return lines
}

// inTime is how long it is until then; "": it is due.
func inTime(at *time.Time) string {
	if at == nil || time.Until(*at) <= 0 {
		return ""
	}
	return span(time.Until(*at))
}

func forHowLong(until *time.Time) string {
	switch in := inTime(until); {
	case until == nil:
		return "for as long as it takes"
	case in == "":
		return "and its time is up"
	default:
		return fmt.Sprintf("until %s (in %s)", clock(*until), in)
	}
}

// afterwards are the moves that follow from the saga's state, after those of its steps.
func (v view) afterwards(stuck []pgengine.StepStatus, busy bool) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	byHand := func(t pgengine.StepStatus) bool { return v.step(t.Step).ManualUndo && t.Direction == pgengine.Undo }
	pivot := v.passed()
	switch {
	case len(stuck) > 0:
		if slices.ContainsFunc(stuck, func(t pgengine.StepStatus) bool { return !byHand(t) }) {
			say("Mend what the error tells of, and have it tried again:")
			say("  pgsagaz saga retry %s --reason '...' --wait", v.ID)
		}
		for _, w := range v.Waits {
			for _, o := range w.Outcomes {
				say("%s", resolutionMeans(w, o))
				say("  pgsagaz saga resolve %s %s %s --reason '...'%s", v.ID, w.Step, o, resultFlag(w, o))
			}
		}
	case v.State == pgengine.Running && !busy:
		say("it waits to be begun, or to go on")
		fallthrough
	case v.State == pgengine.Running:
		if pivot != "" {
			say("it is past its pivot %s: it only goes forward", pivot)
		} else {
			say("To turn it back:  pgsagaz saga cancel %s --reason '...' --wait", v.ID)
		}
	default:
		say("it turns back by itself: nothing to do unless it becomes stuck")
	}
	if len(v.workers) == 0 {
		say("NO LIVE WORKER has the code of %s/%d: nothing goes on until one is started (pgsagaz worker)", v.Name, v.Version)
	}
	return lines
}

// passed is the pivot, if the saga is past it.
func (v view) passed() string {
	for _, t := range v.Steps {
		if v.step(t.Step).Pivot && t.Direction == pgengine.Do && t.State == "done" {
			return t.Step
		}
	}
	return ""
}

func resolutionMeans(w waiting, o pgengine.Outcome) string {
	undo := w.Direction == pgengine.Undo
	switch {
	case undo && o == pgengine.OutcomeDone:
		return fmt.Sprintf("Or, if %s is undone, by hand or all along:", w.Step)
	case undo:
		return fmt.Sprintf("Or, to leave %s as it is, not undone:", w.Step)
	case o == pgengine.OutcomeDone:
		return fmt.Sprintf("Or, if %s is done, with its result:", w.Step)
	case o == pgengine.OutcomeFailed:
		return fmt.Sprintf("Or, if %s has not happened, and will not, so that the saga turns back:", w.Step)
	}
	return fmt.Sprintf("Or, to go on without %s:", w.Step)
}

func resultFlag(w waiting, o pgengine.Outcome) string {
	if w.Direction == pgengine.Do && o == pgengine.OutcomeDone {
		return " --result '{...}'"
	}
	return ""
}
