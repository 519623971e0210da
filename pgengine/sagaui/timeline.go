package sagaui

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// timeline is when what ran, failed and waited: a row for each direction of each step.
type timeline struct {
	Width, Height int
	Rows          []lineRow
	Ticks         []tick
	Left          int // rows that are not shown
}

type lineRow struct {
	Y     int
	Name  string
	Bars  []bar
	Label string
}

type bar struct {
	X, Y, W, H int
	Class      string
	Tip        string
}

type tick struct {
	X    int
	Text string
}

const (
	lineLabel, lineChart  = 170, 780
	lineHeight, barHeight = 24, 12
	mostLines             = 200
)

// time draws the saga's time, to its end or until now.
func (s *Saga) time(now time.Time) *timeline {
	from, to := s.CreatedAt, now
	if s.EndedAt != nil {
		to = *s.EndedAt
	}
	for _, t := range s.Steps { // a child may be taken back after it has ended, and clocks differ
		if t.EndedAt != nil && t.EndedAt.After(to) {
			to = *t.EndedAt
		}
	}
	whole := max(to.Sub(from), time.Millisecond)
	x := func(t time.Time) int {
		share := float64(t.Sub(from)) / float64(whole)
		return lineLabel + int(min(max(share, 0), 1)*lineChart)
	}
	steps := slices.Clone(s.Steps)
	begun := func(t pgengine.StepStatus) time.Time { return s.begun(t, to) }
	slices.SortStableFunc(steps, func(a, b pgengine.StepStatus) int { return begun(a).Compare(begun(b)) })
	l := &timeline{Width: lineLabel + lineChart + 20}
	if l.Left = len(steps) - mostLines; l.Left > 0 {
		steps = steps[len(steps)-mostLines:]
	}
	for i, t := range steps {
		name := t.Step
		if t.Direction == pgengine.Undo {
			name = "↩ " + name
		}
		if runes := []rune(name); len(runes) > 22 {
			name = string(runes[:21]) + "…"
		}
		row := lineRow{Y: 24 + i*lineHeight, Name: name}
		add := func(from, to time.Time, class, tip string) {
			b := bar{X: x(from), Y: row.Y + (lineHeight-barHeight)/2, W: max(x(to)-x(from), 3), H: barHeight, Class: class, Tip: tip}
			if class == "wait" {
				b.Y, b.H = b.Y+barHeight/2-1, 3
			}
			row.Bars = append(row.Bars, b)
		}
		last := begun(t)
		failed := 0
		for _, a := range s.Attempts {
			if a.Step != t.Step || a.Direction != t.Direction || a.Generation != t.Generation {
				continue
			}
			if failed++; a.StartedAt.After(last) {
				add(last, a.StartedAt, "wait", "waited "+span(a.StartedAt.Sub(last)))
			}
			add(a.StartedAt, a.EndedAt, "failed", fmt.Sprintf("attempt %d, %s: %s", a.Attempt, a.Kind, plain(clip(a.Error, 200))))
			last = a.EndedAt
		}
		switch {
		case t.EndedAt != nil:
			start := last
			if t.StartedAt != nil {
				start = *t.StartedAt
			}
			if start.After(last) && failed > 0 {
				add(last, start, "wait", "waited "+span(start.Sub(last)))
			}
			add(start, *t.EndedAt, class(t), fmt.Sprintf("%s, %s", t.State, span(t.EndedAt.Sub(start))))
		case t.State == "running":
			add(last, to, class(t), "running")
		default:
			add(last, to, "wait", t.State)
			if t.State == "stuck" {
				add(to.Add(-whole/200), to, "stuck", "stuck")
			}
		}
		row.Label = fmt.Sprintf("%s %s: %s", t.Direction, t.Step, t.State)
		if failed > 0 {
			row.Label += fmt.Sprintf(", %d failed attempts", failed)
		}
		l.Rows = append(l.Rows, row)
	}
	l.Height = 24 + len(l.Rows)*lineHeight + 8
	for i := range 5 {
		at := whole * time.Duration(i) / 4
		l.Ticks = append(l.Ticks, tick{lineLabel + lineChart*i/4, span(at)})
	}
	l.Ticks[0].Text = "0"
	return l
}

// begun is when a direction of a step was begun. Of one that runs nobody has written that down: it follows what went before.
func (s *Saga) begun(t pgengine.StepStatus, now time.Time) time.Time {
	for _, a := range s.Attempts {
		if a.Step == t.Step && a.Direction == t.Direction && a.Generation == t.Generation {
			return a.StartedAt
		}
	}
	if t.StartedAt != nil {
		return *t.StartedAt
	}
	last := s.CreatedAt
	before := s.step(t.Step).After
	for _, o := range s.Steps {
		if o.EndedAt != nil && o.EndedAt.After(last) && o.EndedAt.Before(now) && (t.Direction == pgengine.Undo || slices.Contains(before, o.Step)) {
			last = *o.EndedAt
		}
	}
	return last
}
