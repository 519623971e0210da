package sagaui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// drawing is a saga's graph as SVG has it: layers from left to right, steps as boxes, edges as curves. Under the edges run
// those of the way back, from a step to the one that is undone after it.
type drawing struct {
	Width, Height int
	Boxes         []box
	Edges, Undos  []edge
	Label         string // for those who listen
}

type box struct {
	X, Y, W, H int
	Name       string
	Short      string // as much of the name as there is room for
	Class      string
	What       string // its kind, or what it waits for
	State      string // in words
	Pivot      bool
	Optional   bool
	Undo       bool // it can be undone
	Stack      bool // it stands for other sagas
	Doubt      bool
	Label      string
	Link       string // "": nothing is known of it yet
}

type edge struct{ Path, Class string }

// Measures, in pixels.
const (
	boxWidth, boxHeight = 168, 54
	gapX, gapY          = 62, 26
	margin              = 14
)

// place is a step in its layer, or the passage of an edge through a layer that it leaps over.
type place struct {
	step       string // "": a passage
	before     []*place
	after      []*place
	layer, row int
	at         float64 // the middle, from the top
}

// draw lays out g by its plan. s, the saga that runs on it, may be nil.
func draw(g pgengine.Graph, plan pgengine.Plan, s *Saga) *drawing {
	places, layers := arrange(g, plan)
	tallest := 0
	for _, l := range layers {
		tallest = max(tallest, len(l))
	}
	d := &drawing{
		Width:  2*margin + len(layers)*boxWidth + (len(layers)-1)*gapX,
		Height: 2*margin + tallest*boxHeight + (tallest-1)*gapY + 14, // and room for the way back
	}
	if tallest == 1 {
		d.Height += 16
	}
	for _, l := range layers {
		top := float64(d.Height-len(l)*(boxHeight+gapY)+gapY)/2 - 5
		for i, p := range l {
			p.at = top + float64(i*(boxHeight+gapY)) + boxHeight/2
		}
	}
	var told []string
	for _, step := range g.Steps {
		b := newBox(step, s)
		p := places[step.Name]
		b.X, b.Y, b.W, b.H = margin+p.layer*(boxWidth+gapX), int(p.at)-boxHeight/2, boxWidth, boxHeight
		d.Boxes = append(d.Boxes, b)
		told = append(told, b.Label)
		for _, name := range step.After {
			d.Edges = append(d.Edges, edge{forth(places[name], p), edgeClass(name, step.Name, s)})
			if kind := undoClass(g, name, step.Name, s); kind != "" {
				d.Undos = append(d.Undos, edge{back(places[name], p), kind})
			}
		}
	}
	// What is lit lies on top.
	slices.SortStableFunc(d.Undos, func(a, b edge) int { return cmp.Compare(len(a.Class), len(b.Class)) })
	d.Label = strings.Join(told, "; ")
	return d
}

// arrange puts steps and passages into layers, and orders each so that few edges cross: some sweeps in which everything
// moves to the middle of its neighbours.
func arrange(g pgengine.Graph, plan pgengine.Plan) (map[string]*place, [][]*place) {
	places, layers := map[string]*place{}, make([][]*place, len(plan.Layers))
	for i, names := range plan.Layers {
		for _, name := range names {
			p := &place{step: name, layer: i}
			places[name] = p
			layers[i] = append(layers[i], p)
		}
	}
	for _, step := range g.Steps {
		for _, name := range step.After {
			from, to := places[name], places[step.Name]
			for l := from.layer + 1; l < to.layer; l++ {
				passage := &place{layer: l, before: []*place{from}}
				from.after = append(from.after, passage)
				layers[l] = append(layers[l], passage)
				from = passage
			}
			from.after, to.before = append(from.after, to), append(to.before, from)
		}
	}
	number := func(l []*place) {
		for i, p := range l {
			p.row = i
			p.at = float64(i) - float64(len(l)-1)/2
		}
	}
	for _, l := range layers {
		number(l)
	}
	middle := func(p *place, of []*place) float64 {
		if len(of) == 0 {
			return p.at
		}
		sum := 0.0
		for _, o := range of {
			sum += o.at
		}
		return sum / float64(len(of))
	}
	for range 4 {
		for _, l := range layers[min(1, len(layers)):] {
			slices.SortStableFunc(l, func(a, b *place) int { return cmp.Compare(middle(a, a.before), middle(b, b.before)) })
			number(l)
		}
		for i := len(layers) - 2; i >= 0; i-- {
			l := layers[i]
			slices.SortStableFunc(l, func(a, b *place) int { return cmp.Compare(middle(a, a.after), middle(b, b.after)) })
			number(l)
		}
	}
	return places, layers
}

// way is where an edge goes from one step to another: through its passages.
func way(from, to *place) []*place {
	// Passages belong to one edge, so that following them from the end finds the only way.
	for _, p := range to.before {
		points := []*place{to}
		for p.step == "" {
			points = append(points, p)
			p = p.before[0]
		}
		if p == from {
			points = append(points, from)
			slices.Reverse(points)
			return points
		}
	}
	return []*place{from, to}
}

func left(p *place) int { return margin + p.layer*(boxWidth+gapX) }

// forth is the curve of an edge.
func forth(from, to *place) string {
	points := way(from, to)
	var b strings.Builder
	x, y := left(from)+boxWidth, int(from.at)-6
	fmt.Fprintf(&b, "M%d %d", x, y)
	for _, p := range points[1:] {
		nx, ny := left(p), int(p.at)
		if p == to {
			nx, ny = nx-2, ny-6
		}
		fmt.Fprintf(&b, " C%d %d %d %d %d %d", x+gapX/2, y, nx-gapX/2, ny, nx, ny)
		if p != to {
			nx += boxWidth
			fmt.Fprintf(&b, " H%d", nx)
		}
		x, y = nx, ny
	}
	return b.String()
}

// back is the curve of the way back, below the edge.
func back(from, to *place) string {
	points := way(from, to)
	slices.Reverse(points)
	var b strings.Builder
	x, y := left(to), int(to.at)+10
	fmt.Fprintf(&b, "M%d %d", x, y)
	for _, p := range points[1:] {
		nx, ny := left(p)+boxWidth, int(p.at)+10
		if p == from {
			nx += 2
		}
		fmt.Fprintf(&b, " C%d %d %d %d %d %d", x-gapX/2, y, nx+gapX/2, ny, nx, ny)
		if p != from {
			nx -= boxWidth
			fmt.Fprintf(&b, " H%d", nx)
		}
		x, y = nx, ny
	}
	return b.String()
}

// newBox tells of a step, and of how it stands.
func newBox(g pgengine.GraphStep, s *Saga) box {
	b := box{
		Name: g.Name, Short: g.Name, What: what(g), Pivot: g.Pivot, Optional: g.Optional || g.When, Undo: g.Undo || g.ManualUndo,
		Stack: g.Kind == "child" || g.Kind == "each", Class: "open", State: "not begun",
	}
	const room = 19
	if runes := []rune(b.Short); len(runes) > room {
		b.Short = string(runes[:room-1]) + "…"
	}
	if s == nil {
		b.Class, b.State = "plain", ""
	} else {
		b.stand(g, s)
	}
	words := []string{g.Name, b.What}
	for _, fact := range []struct {
		is   bool
		name string
	}{{b.State != "", b.State}, {b.Doubt, "in doubt"}, {g.Pivot, "the pivot"}, {g.Optional, "optional"}, {g.When, "may be skipped"}, {g.ManualUndo, "undone by hand"}, {b.Undo, "can be undone"}} {
		if fact.is {
			words = append(words, fact.name)
		}
	}
	b.Label = strings.Join(words, ", ")
	return b
}

func what(g pgengine.GraphStep) string {
	switch {
	case g.Signal != "":
		return "awaits " + g.Signal
	case g.Child != "":
		return g.Kind + " " + g.Child
	}
	return g.Kind
}

// stand is how the step stands in s.
func (b *box) stand(g pgengine.GraphStep, s *Saga) {
	do, undo := s.latest(g.Name, pgengine.Do), s.latest(g.Name, pgengine.Undo)
	switch {
	case undo != nil && (do == nil || undo.Generation >= do.Generation):
		b.Class, b.State, b.Doubt = class(*undo), undoWords[undo.State], undo.InDoubt
		if b.State == "" {
			b.State = "undo " + undo.State
		}
	case do != nil:
		b.Class, b.State, b.Doubt = class(*do), do.State, do.InDoubt
		if do.Attempt > 1 || do.Attempt > 0 && do.State == "waiting" {
			b.State += fmt.Sprintf(" · attempt %d", do.Attempt)
		}
	case s.State.Ended() || s.State == pgengine.Compensating:
		b.State = "never begun"
		return
	default:
		return
	}
	b.Link = "#step-" + g.Name
	if b.Stack {
		if tally := s.Tally(g.Name); tally != "" {
			b.State = clip(tally, 26)
		}
	}
}

var undoWords = map[string]string{
	"done": "undone", "nothing": "nothing to undo", "skipped": "left as it is", "failed": "undo gave up", "stuck": "undo is stuck",
	"running": "undoing", "waiting": "undo waits", "child": "children turn back",
}

// edgeClass: an edge is lit once what it leads from is done.
func edgeClass(from, to string, s *Saga) string {
	if s == nil {
		return "edge"
	}
	f, t := s.latest(from, pgengine.Do), s.latest(to, pgengine.Do)
	switch {
	case t != nil:
		return "edge went"
	case f != nil && f.State == "done" && !s.State.Ended():
		return "edge next"
	}
	return "edge"
}

// undoClass: the way back over an edge exists if both its ends can be undone. It is lit once the later one is.
func undoClass(g pgengine.Graph, from, to string, s *Saga) string {
	can := func(name string) bool {
		i := slices.IndexFunc(g.Steps, func(g pgengine.GraphStep) bool { return g.Name == name })
		return g.Steps[i].Undo || g.Steps[i].ManualUndo
	}
	if s == nil {
		if can(from) && can(to) {
			return "undo"
		}
		return ""
	}
	earlier, later := s.latest(from, pgengine.Undo), s.latest(to, pgengine.Undo)
	// Of a step that never happened, or has no undo, there is nothing to wait for: the way back begins behind it.
	begun := earlier != nil
	ended := func(t *pgengine.StepStatus) bool {
		return t.State != "running" && t.State != "waiting" && t.State != "stuck" && t.State != "child"
	}
	switch {
	case begun && ended(earlier):
		return "undo went"
	case begun:
		return "undo lit"
	case later != nil && can(from):
		return "undo lit"
	case can(from) && can(to):
		return "undo"
	}
	return ""
}
