package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

// graphOf draws a graph: "a b<a c<a,b" are three Activities with an Undo. A name may end in ? (Optional),
// ! (no Undo), * (TxStep), ^ (the pivot), ~ (undone by hand), + (an undo that fails is passed over) and
// - (and what it came after is not undone either).
func graphOf(drawing string) *graph {
	var nodes []node
	byName := map[string]node{}
	for word := range strings.FieldsSeq(drawing) {
		name, after, _ := strings.Cut(word, "<")
		n := node{
			kind: kindActivity, name: strings.TrimRight(name, "?!*^~+-"), optional: strings.Contains(name, "?"),
			pivot: strings.Contains(name, "^"), manualUndo: strings.Contains(name, "~"),
		}
		if strings.Contains(name, "+") {
			n.undoFailure = UndoContinue
		}
		if strings.Contains(name, "-") {
			n.undoFailure = UndoSkip
		}
		if strings.Contains(name, "*") {
			n.kind = kindTx
			n.doTx = func(context.Context, pgx.Tx, *call) (json.RawMessage, error) { return nil, nil }
		}
		if !strings.ContainsAny(name, "!~^") {
			n.undo = func(context.Context, *call, json.RawMessage) error { return nil }
		}
		n.after = predecessorsOf(strings.FieldsFunc(after, func(r rune) bool { return r == ',' }), func(before string) node { return byName[before] })
		byName[n.name] = n
		nodes = append(nodes, n)
	}
	g, problems := newGraph("drawn", 1, nodes)
	if len(problems) > 0 {
		panic(problems[0])
	}
	return g
}

// snapshotOf reads "a:done b:undone c:doubt d:failed" and "held do a, waiting do b, doubt do c, parked undo d".
func snapshotOf(g *graph, state State, steps, lanes string) snapshot {
	s := snapshot{state: state, steps: make([]known, len(g.nodes))}
	for word := range strings.FieldsSeq(steps) {
		name, what, _ := strings.Cut(word, ":")
		s.steps[g.index[name]] = map[string]known{
			"done": {outcome: done, generation: 1}, "undone": {outcome: done, generation: 1, undone: true},
			"doubt": {outcome: inDoubt, generation: 1}, "failed": {outcome: failed, generation: 1},
			"again": {outcome: done, generation: 2}, "skipped": {outcome: skipped, generation: 1},
			"gaveup": {outcome: done, generation: 1, undone: true, gaveUp: true},
		}[what]
	}
	for k, lane := range strings.FieldsFunc(lanes, func(r rune) bool { return r == ',' }) {
		words := strings.Fields(lane)
		l := laneAt{
			id: int64(k), node: -1, direction: Direction(words[1]), generation: 1,
			held: words[0] == "held", parked: words[0] == "parked" || words[0] == "parked-doubt",
			inDoubt: words[0] == "doubt" || words[0] == "parked-doubt",
		}
		if len(words) > 2 {
			l.node = g.index[words[2]]
		}
		s.lanes = append(s.lanes, l)
	}
	return s
}

// tell writes a decision as the tables have it.
func (d decision) tell(g *graph) string {
	parts := []string{string(d.state)}
	for _, t := range d.begin {
		part := string(t.direction) + " " + g.nodes[t.node].name
		if t.generation > 1 {
			part += fmt.Sprint(" ", t.generation)
		}
		parts = append(parts, part)
	}
	for _, t := range d.forgo {
		parts = append(parts, "forgo "+g.nodes[t.node].name)
	}
	for _, x := range d.dissolve {
		part := fmt.Sprint("dissolve ", x.lane)
		if x.record {
			part += " in doubt"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

const (
	chain   = "a b<a c<b"
	diamond = "a b<a c<a d<b,c"
)

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name         string
		graph        string
		state        State
		steps, lanes string
		want         string
	}{
		// Forward.
		{"a command before it has begun", chain, Running, "", "waiting do", "running"},
		{"a chain begins", chain, Running, "", "", "running, do a"},
		{"two begin", "a b c<a,b", Running, "", "", "running, do a, do b"},
		{"a claimed step does not begin again", "a b c<a,b", Running, "", "held do a", "running, do b"},
		{"not even one that waits", "a b c<a,b", Running, "", "waiting do a, parked do b", "running"},
		{"a chain goes on", chain, Running, "a:done", "", "running, do b"},
		{"a fan-out", diamond, Running, "a:done", "", "running, do b, do c"},
		{"a join waits for the other", diamond, Running, "a:done b:done", "held do c", "running"},
		{"the last one opens the join", diamond, Running, "a:done b:done c:done", "", "running, do d"},
		{"the end", chain, Running, "a:done b:done c:done", "", "completed"},
		{"an optional step that failed has arrived", "a b?<a c<b", Running, "a:done b:failed", "", "running, do c"},
		{"so has one in doubt", "a b?<a c<b", Running, "a:done b:doubt", "", "running, do c"},
		{"the end, without the optional one", "a b?<a", Running, "a:done b:failed", "", "completed"},
		{"a single step", "a", Running, "a:done", "", "completed"},

		// Turning back.
		{"nothing to undo", "a", Running, "a:failed", "", "compensated"},
		{"a step in doubt is undone itself", "a", Running, "a:doubt", "", "compensating, undo a"},
		{"in doubt without an Undo", "a!", Running, "a:doubt", "", "compensated"},
		{"the last one first", chain, Running, "a:done b:done c:failed", "", "compensating, undo b"},
		{"a branch still ends", diamond, Running, "a:done b:failed", "held do c", "failing"},
		{"a branch that waits is dissolved", diamond, Running, "a:done b:failed", "waiting do c", "compensating, undo a, dissolve 0"},
		{"and recorded if in doubt", diamond, Running, "a:done b:failed", "doubt do c", "compensating, undo c, dissolve 0 in doubt"},
		{"a TxStep has had no effect", "a b<a c*<a d<b,c", Running, "a:done b:failed", "doubt do c", "compensating, undo a, dissolve 0"},
		{"in doubt and optional", "a b<a c?<a", Running, "a:done b:failed", "doubt do c", "compensating, undo c, dissolve 0 in doubt"},
		{"some wait, some end", "a b c d", Running, "a:failed", "held do b, waiting do c, doubt do d", "failing, dissolve 1, dissolve 2 in doubt"},
		{"nothing new while failing", diamond, Failing, "a:done b:done", "held do c", "failing"},
		{"the last one flips it", diamond, Failing, "a:done b:done c:done", "", "compensating, undo b, undo c"},
		{"cancelled before it began", chain, Failing, "", "waiting do", "compensated, dissolve 0"},
		{"cancelled at its end", chain, Failing, "a:done b:done c:done", "", "compensating, undo c"},

		// Back.
		{"dependents first", chain, Compensating, "a:done b:done c:undone", "", "compensating, undo b"},
		{"not while one is at it", diamond, Compensating, "a:done b:undone c:done d:failed", "held undo c", "compensating"},
		{"branches side by side", diamond, Compensating, "a:done b:done c:done d:undone", "", "compensating, undo b, undo c"},
		{"order holds across a step without Undo", "a b!<a c<b", Compensating, "a:done b:done c:done", "", "compensating, undo c"},
		{"and across two", "a b!<a c!<b d<c", Compensating, "a:done b:done c:done d:done", "held undo d", "compensating"},
		{"without Undo there is nothing to do", "a! b!<a c<b", Compensating, "a:done b:done c:failed", "", "compensated"},
		{"all undone", chain, Compensating, "a:undone b:undone c:failed", "", "compensated"},
		{"a retry waits", "a", Compensating, "a:done", "waiting undo a", "compensating"},

		// Stuck.
		{"what is parked blocks what is before it", chain, Compensating, "a:done b:done c:failed", "parked undo b", "stuck"},
		{"what is beside it goes on", diamond, Compensating, "a:done b:done c:done", "parked undo b", "compensating, undo c"},
		{"until it has ended", diamond, Compensating, "a:done b:done c:done", "parked undo b, held undo c", "compensating"},
		{"then it is stuck", diamond, Compensating, "a:done b:done c:undone", "parked undo b", "stuck"},
		{"a parked undo is set going again", diamond, Stuck, "a:done b:done c:undone", "waiting undo b", "compensating"},

		// Steps that are skipped.
		{"a skipped step has arrived", "a b<a c<b", Running, "a:done b:skipped", "", "running, do c"},
		{"and is not undone", "a b<a c<b", Running, "a:done b:skipped c:failed", "", "compensating, undo a"},
		{"the end, all skipped", "a", Running, "a:skipped", "", "completed"},

		// Undos that fail, and go on.
		{"passed over", "a b+<a", Compensating, "a:done b:gaveup", "", "compensating, undo a"},
		{"what it came after stays", "a b-<a c<a d<c", Compensating, "a:done b:gaveup c:done d:failed", "", "compensating, undo c, forgo a"},
		{"all that it came after", "a b<a c-<b", Compensating, "a:done b:done c:gaveup", "", "compensated, forgo a, forgo b"},
		{"once", "a b<a c-<b", Compensating, "a:undone b:undone c:gaveup", "", "compensated"},

		// Undos by hand.
		{"an operator's", "a b~<a", Running, "a:done b:done", "", "completed"},
		{"is asked for", "a b~<a c!<b", Running, "a:done b:done c:failed", "", "stuck, undo b"},
		{"beside others", "a b~<a c<a", Compensating, "a:done b:done c:done", "", "compensating, undo b, undo c"},
		{"and then confirmed", "a b~<a", Stuck, "a:done b:undone", "", "compensating, undo a"},

		// The pivot.
		{"before it all is undone", "a p^<a b!<p", Running, "a:done p:failed", "", "compensating, undo a"},
		{"past it nothing is", "a p^<a b!<p", Running, "a:done p:done", "parked do b", "stuck"},
		{"a cancel that lost", "a p^<a b!<p", Failing, "a:done p:done", "", "running, do b"},
		{"at its end", "a p^<a", Failing, "a:done p:done", "", "completed"},
		{"in doubt, a cancel waits", "a p^<a b!<p", Failing, "a:done", "doubt do p", "failing"},
		{"not begun, it does not", "a p^<a b!<p", Failing, "a:done", "waiting do p", "compensating, undo a, dissolve 0"},
		{"in doubt for good", "a p^<a b!<p", Running, "a:done", "parked-doubt do p", "stuck"},
		{"in doubt for good, and cancelled", "a p^<a b!<p", Failing, "a:done", "parked-doubt do p", "stuck"},
		{"set going again", "a p^<a b!<p", Stuck, "a:done", "doubt do p", "failing"},
		{"and found", "a p^<a b!<p", Stuck, "a:done p:done", "", "running, do b"},
		{"and not found", "a p^<a b!<p", Stuck, "a:done p:failed", "", "compensating, undo a"},
		{"past it, what is beside it goes on", "a p^<a b!<p c!<p", Running, "a:done p:done", "parked do b", "running, do c"},
		{"an operator let one go", "a p^<a b!<p c!<b", Stuck, "a:done p:done b:skipped", "", "running, do c"},
		{"an optional step beside it", "a p^<a o?!<a", Running, "a:done p:done", "", "running, do o"},
		{"its failure changes nothing", "a p^<a o?!<a", Running, "a:done p:done o:failed", "", "completed"},

		// Late results.
		{"a result after its undo", chain, Compensating, "a:undone b:again", "", "compensating, undo b 2"},
		{"while the first undo runs", chain, Compensating, "a:undone b:again", "held undo b", "compensating"},
		{"in a stuck saga", "a b", Stuck, "a:done b:again", "parked undo a", "compensating, undo b 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := graphOf(test.graph)
			if got := plan(g, snapshotOf(g, test.state, test.steps, test.lanes)).tell(g); got != test.want {
				t.Errorf("%s: %s, steps %s, lanes %q: %s, want %s", test.graph, test.state, test.steps, test.lanes, got, test.want)
			}
		})
	}
}

func TestPlanTouchesNothing(t *testing.T) {
	g := graphOf(diamond)
	s := snapshotOf(g, Running, "a:done b:failed", "doubt do c")
	plan(g, s)
	if k := s.steps[g.index["c"]]; k.outcome != open || len(s.lanes) != 1 || s.state != Running {
		t.Errorf("the snapshot has become %+v", s)
	}
}

func TestNext(t *testing.T) {
	for _, test := range []struct{ graph, step, want string }{
		{chain, "a", "b"},
		{chain, "c", "the end"},
		{diamond, "a", "b c"},
		{diamond, "b", "unknown"},       // whoever arrives last opens the join
		{diamond, "d", "the end"},       // everything is before it
		{"a b", "a", "unknown"},         // two ends
		{"a b<a c<a", "b", "unknown"},   // two ends
		{"a b<a c<a,b", "a", "unknown"}, // c has to wait for b
		{"a b<a c<a,b", "b", "unknown"}, // and a is one of two before c
		{"a b?<a c<b", "b", "c"},        // how b ended is not asked
		{"a b<a c<b d<b e<c,d", "b", "c d"},
	} {
		g := graphOf(test.graph)
		n := g.next(g.index[test.step])
		got := "unknown"
		if n.known {
			var names []string
			for _, task := range n.tasks {
				names = append(names, g.nodes[task.node].name)
			}
			if got = strings.Join(names, " "); got == "" {
				got = "the end"
			}
		}
		if got != test.want {
			t.Errorf("%s: after %s: %s, want %s", test.graph, test.step, got, test.want)
		}
	}
}

func TestDescendants(t *testing.T) {
	g := graphOf("a b<a c<b d<a e")
	for pair, want := range map[string]bool{"ab": true, "ac": true, "ad": true, "ae": false, "ca": false, "aa": false, "bd": false} {
		if got := g.isAncestor(pair[:1], pair[1:]); got != want {
			t.Errorf("%s before %s: %v, want %v", pair[:1], pair[1:], got, want)
		}
	}
	if g.isAncestor("a", "nobody") || g.isAncestor("nobody", "a") {
		t.Error("a step that is not there comes before or after another")
	}
}

// TestPlanKeepsItsPromises lives many worlds of even chances.
func TestPlanKeepsItsPromises(t *testing.T) {
	worlds := uint64(20_000)
	if testing.Short() {
		worlds = 2_000
	}
	ends := map[State]int{}
	for seed := range worlds {
		w, err := live(rand.New(rand.NewPCG(seed, 0)).IntN)
		if err != nil {
			t.Fatalf("world %d: %v", seed, err)
		}
		ends[w.snap.state]++
	}
	t.Log(ends)
	for _, s := range []State{Completed, Compensated, Stuck} {
		if ends[s] < int(worlds/100) {
			t.Errorf("%d of %d sagas ended %s: the worlds are too small", ends[s], worlds, s)
		}
	}
}

// TestPlanInSmallWorlds is for whoever has broken something: rapid shows the smallest world that tells.
func TestPlanInSmallWorlds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, err := live(func(n int) int {
			if n < 2 {
				return 0
			}
			return rapid.IntRange(0, n-1).Draw(t, "choice")
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzPlan(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 3, 0, 0, 3, 0, 6, 6})
	for seed := range byte(24) { // long enough for a graph and its troubles
		f.Add(slices.Repeat([]byte{seed, 7 * seed, 255 - seed, 3, seed / 2, 8, 31 * seed}, 30))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		_, err := live(func(n int) int {
			if len(choices) == 0 || n < 2 {
				return 0
			}
			c := int(choices[0]) % n
			choices = choices[1:]
			return c
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
