package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

func (c Course) tell() string {
	words := string(c.End)
	var undone []string
	for _, group := range c.Undone {
		undone = append(undone, strings.Join(group, ","))
	}
	if undone != nil {
		words += ", undone " + strings.Join(undone, " ")
	}
	if c.Stays != nil {
		words += ", stays " + strings.Join(c.Stays, " ")
	}
	return words
}

// tell writes a row as the tables have it.
func (f Fault) tell() string {
	words := f.Step + " " + string(f.Kind)
	if f.Cannot != "" {
		return words + ": cannot"
	}
	if f.Case != "" {
		words += " (" + f.Case + ")"
	}
	words += ": " + f.Course.tell()
	if f.Asked != nil {
		words += "; asked " + strings.Join(f.Asked, " ")
	}
	for _, a := range f.Answers {
		words += "; " + string(a.Outcome) + ": " + a.Course.tell()
	}
	if f.Beside != nil {
		words += "; beside " + strings.Join(f.Beside, " ")
	}
	return words
}

func outlineOf(t testing.TB, p Graph) Plan {
	t.Helper()
	plan, err := p.Outline()
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// shapeOf writes what a plan says of the graph, but for the faults.
func (p Plan) shapeOf() string {
	groups := func(gs [][]string) string {
		var words []string
		for _, g := range gs {
			words = append(words, strings.Join(g, ","))
		}
		return strings.Join(words, " ")
	}
	var never []string
	for _, n := range p.NeverUndone {
		never = append(never, n.Step)
	}
	return fmt.Sprintf("order %s | layers %s | path %s | width %d %s | undo %s | never %s", strings.Join(p.Order, " "), groups(p.Layers),
		strings.Join(p.CriticalPath, " "), p.Width, strings.Join(p.Widest, ","), groups(p.UndoOrder), strings.Join(never, " "))
}

func TestOutlineOfShapes(t *testing.T) {
	for _, test := range []struct{ name, graph, want string }{
		{"one", "a", "order a | layers a | path a | width 1 a | undo a | never "},
		{"chain", chain, "order a b c | layers a b c | path a b c | width 1 c | undo c b a | never "},
		{"diamond", diamond, "order a b c d | layers a b,c d | path a b d | width 2 b,c | undo d b,c a | never "},
		{
			"no undo in between", "a b!<a c<b d<a e<c,d",
			"order a b c d e | layers a b,d c e | path a b c e | width 2 c,d | undo e c,d a | never b",
		},
		{
			"pivot", "a b<a c^<b d!<c e!<c f!?<a",
			"order a b c d e f | layers a b,f c d,e | path a b c d | width 3 d,e,f | undo b a | never c d e f",
		},
		{
			"an antichain that no layer is", "a b<a c<b d<c e f g<d h<g i<f", // the widest crosses layers
			"order a b c d e f g h i | layers a,e,f b,i c d g h | path a b c d g h | width 3 e,h,i | undo e,h,i f,g d c b a | never ",
		},
		{"listed against its order", "z y x<z w<y,x", "order z y x w | layers z,y x w | path z x w | width 2 y,x | undo w y,x z | never "},
		{"undone by hand", "a b~<a c<b", "order a b c | layers a b c | path a b c | width 1 c | undo c b a | never "},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := outlineOf(t, graphOf(test.graph).public()).shapeOf(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// tuned gives steps of a drawing other facts.
func tuned(drawing string, tune map[string]func(*GraphStep)) Graph {
	p := graphOf(drawing).public()
	for i, s := range p.Steps {
		if f := tune[s.Name]; f != nil {
			f(&p.Steps[i])
		}
	}
	return p
}

func looksUp(s *GraphStep) { s.Lookup = true }

func TestFaultMatrix(t *testing.T) {
	for _, test := range []struct {
		name  string
		graph Graph
		want  []string
	}{
		{"chain", graphOf("a b*<a c!<b").public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck, undone b; asked a; done: compensated, undone b a, stays c; skipped: compensated, undone b, stays a c",
			"b fails: compensated, undone a",
			"b unknown: cannot",
			"b undo fails: stuck; asked b; done: compensated, undone b a, stays c; skipped: compensated, undone a, stays b c",
			"c fails: compensated, undone b a",
			"c unknown: compensated, undone b a, stays c",
			"c undo fails: cannot",
		}},
		{"diamond", graphOf(diamond).public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck, undone d b,c; asked a; done: compensated, undone d b,c a; skipped: compensated, undone d b,c, stays a",
			"b fails: compensated, undone c a; beside c",
			"b unknown: compensated, undone b,c a; beside c",
			"b undo fails: stuck, undone d c; asked b; done: compensated, undone d c b a; skipped: compensated, undone d c a, stays b",
			"c fails: compensated, undone b a; beside b",
			"c unknown: compensated, undone b,c a; beside b",
			"c undo fails: stuck, undone d b; asked c; done: compensated, undone d b c a; skipped: compensated, undone d b a, stays c",
			"d fails: compensated, undone b,c a",
			"d unknown: compensated, undone d b,c a",
			"d undo fails: stuck; asked d; done: compensated, undone d b,c a; skipped: compensated, undone b,c a, stays d",
		}},
		{"optional", graphOf("a b?<a c<b").public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck, undone c b; asked a; done: compensated, undone c b a; skipped: compensated, undone c b, stays a",
			"b fails: completed",
			"b unknown: completed",
			"b undo fails: stuck, undone c; asked b; done: compensated, undone c b a; skipped: compensated, undone c a, stays b",
			"c fails: compensated, undone b a",
			"c unknown: compensated, undone c b a",
			"c undo fails: stuck; asked c; done: compensated, undone c b a; skipped: compensated, undone b a, stays c",
		}},
		{"undo policies", graphOf("a b<a c+<b d<a e-<d").public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck, undone c,e b,d; asked a; done: compensated, undone c,e b,d a; skipped: compensated, undone c,e b,d, stays a",
			"b fails: compensated, undone e d a; beside d e",
			"b unknown: compensated, undone b,e d a; beside d e",
			"b undo fails: stuck, undone c,e d; asked b; done: compensated, undone c,e d b a; skipped: compensated, undone c,e d a, stays b",
			"c fails: compensated, undone b,e d a; beside d e",
			"c unknown: compensated, undone c,e b,d a; beside d e",
			"c undo fails: compensated, undone e b,d a, stays c",
			"d fails: compensated, undone c b a; beside b c",
			"d unknown: compensated, undone c,d b a; beside b c",
			"d undo fails: stuck, undone c,e b; asked d; done: compensated, undone c,e b d a; skipped: compensated, undone c,e b a, stays d",
			"e fails: compensated, undone c,d b a; beside b c",
			"e unknown: compensated, undone c,e b,d a; beside b c",
			"e undo fails: compensated, undone c b, stays a d e",
		}},
		{"undone by hand", graphOf("a b~<a c<b").public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck, undone c; asked b; done: compensated, undone c b a; skipped: compensated, undone c, stays a b",
			"b fails: compensated, undone a",
			"b unknown: stuck; asked b; done: compensated, undone b a; skipped: compensated, undone a, stays b",
			"b undo fails: cannot",
			"c fails: stuck; asked b; done: compensated, undone b a; skipped: compensated, undone a, stays b",
			"c unknown: stuck, undone c; asked b; done: compensated, undone c b a; skipped: compensated, undone c a, stays b",
			"c undo fails: stuck; asked c; done: compensated, undone c b a; skipped: compensated, undone a, stays b c",
		}},
		{"lookups", tuned("a b<a c?<b", map[string]func(*GraphStep){"b": looksUp, "c": looksUp}), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck, undone c b; asked a; done: compensated, undone c b a; skipped: compensated, undone c b, stays a",
			"b fails: compensated, undone a",
			"b unknown (Lookup finds it): compensated, undone b a",
			"b unknown (Lookup finds nothing): compensated, undone a",
			"b undo fails: stuck, undone c; asked b; done: compensated, undone c b a; skipped: compensated, undone c a, stays b",
			"c fails: completed",
			"c unknown: completed",
			"c undo fails: stuck; asked c; done: compensated, undone c b a; skipped: compensated, undone b a, stays c",
		}},
		{"pivot", graphOf("a b^<a c!<b").public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck; asked a; done: compensated, undone a; skipped: compensated, stays a",
			"b fails: compensated, undone a",
			"b unknown: stuck; asked b; done: completed; failed: compensated, undone a",
			"b undo fails: cannot",
			"c fails: stuck; asked c; done: completed",
			"c unknown: stuck; asked c; done: completed",
			"c undo fails: cannot",
		}},
		{"pivot with a lookup", tuned("a~ b^<a c!<b", map[string]func(*GraphStep){
			"b": looksUp, "c": func(s *GraphStep) { s.Recover = true },
		}), []string{
			"a fails: compensated",
			"a unknown: stuck; asked a; done: compensated, undone a; skipped: compensated, stays a",
			"a undo fails: cannot",
			"b fails: stuck; asked a; done: compensated, undone a; skipped: compensated, stays a",
			"b unknown (Lookup finds it): completed",
			"b unknown (Lookup finds nothing): stuck; asked a; done: compensated, undone a; skipped: compensated, stays a",
			"b unknown (Lookup fails): stuck; asked b; done: completed; failed: compensated, undone a",
			"b undo fails: cannot",
			"c fails (Recover finds a way): completed",
			"c fails (Recover hands over): stuck; asked c; done: completed; skipped: completed",
			"c unknown (Recover finds a way): completed",
			"c unknown (Recover hands over): stuck; asked c; done: completed; skipped: completed",
			"c undo fails: cannot",
		}},
		{"a pivot in Postgres", graphOf("a b!*^<a").public(), []string{
			"a fails: compensated",
			"a unknown: compensated, undone a",
			"a undo fails: stuck; asked a; done: compensated, undone a; skipped: compensated, stays a",
			"b fails: compensated, undone a",
			"b unknown: cannot",
			"b undo fails: cannot",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, f := range outlineOf(t, test.graph).Faults {
				got = append(got, f.tell())
			}
			for i := range max(len(got), len(test.want)) {
				var g, w string
				if i < len(got) {
					g = got[i]
				}
				if i < len(test.want) {
					w = test.want[i]
				}
				if g != w {
					t.Errorf("got  %s\nwant %s", g, w)
				}
			}
		})
	}
}

type parcel struct{}

func (parcel) SagaName() string { return "parcel" }

type stamped struct{}

func (stamped) SignalName() string { return "stamped" }

// Waits and children, from a definition and not a drawing.
func TestOutlineOfADefinition(t *testing.T) {
	book := TxStep[parcel, int]{Name: "book", Retry: NoRetry, Do: noTx[parcel], Undo: noTxUndo[parcel]}
	customs := Await[parcel, stamped]{Name: "customs", After: Steps(book), Timeout: time.Hour}
	forever := Await[parcel, stamped]{Name: "forever", After: Steps(book), Optional: true}
	cargo := Each[parcel, cart, string]{Name: "cargo", After: Steps[parcel](customs), Inputs: noItems}
	truck := Child[parcel, cart, string]{Name: "truck", After: Steps[parcel](cargo), Input: noChild}
	rest := Sleep[parcel]{Name: "rest", After: Steps[parcel](customs), For: time.Minute}
	until := Sleep[parcel]{Name: "until", Until: noTime}
	last := TxStep[parcel, int]{
		Name: "last", After: Steps[parcel](truck, rest, until, forever), Do: noTx[parcel], Undo: noTxUndo[parcel],
		UndoRetry: Retry{MaxAttempts: 3}, OnUndoFailure: UndoContinue,
	}
	def := Saga[parcel]{Version: 4, Output: last, OnFailure: FailFast, Steps: Steps[parcel](book, customs, forever, cargo, truck, rest, until, last)}
	p, err := Outline(def)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "parcel" || p.Version != 4 || p.Strategy != "fail fast" || p.Output != "last" || p.Pivot != "" {
		t.Errorf("head: %+v", p)
	}
	const want = "order book customs forever cargo truck rest until last | layers book,until customs,forever cargo,rest truck last" +
		" | path book customs cargo truck last | width 4 forever,truck,rest,until | undo last truck cargo book | never customs forever rest until"
	if got := p.shapeOf(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	wantNotes := []StepNote{
		{"customs", "it and forever may await the signal stamped at once: whichever comes to it first takes the first"},
		{"forever", "it waits for the signal stamped without end: neither it nor the saga has a Timeout"},
		{"last", "it is undone only where the saga is another's child: once it is done, the saga is completed"},
	}
	if !reflect.DeepEqual(p.Notes, wantNotes) {
		t.Errorf("notes %q\nwant %q", p.Notes, wantNotes)
	}
	for _, want := range []string{
		"book fails: compensated; beside until", "customs fails: compensated, undone book; beside forever until", "forever fails: cannot",
		"cargo fails: compensated, undone cargo book; beside forever rest until", "truck fails: compensated, undone cargo book; beside forever rest until",
		"truck unknown: cannot", "truck undo fails: cannot", "rest fails: cannot", "rest unknown: cannot",
		"until fails: compensated, undone truck cargo book; beside book customs forever cargo truck rest",
		"last undo fails: compensated, undone truck cargo book, stays last",
	} {
		if !slices.ContainsFunc(p.Faults, func(f Fault) bool { return f.tell() == want }) {
			t.Errorf("there is no row %q", want)
		}
	}
	for _, want := range []Fault{
		{Step: "book", Kind: FaultFails, When: "its only attempt fails"},
		{Step: "customs", Kind: FaultFails, When: "no signal stamped within 1h0m0s"},
		{Step: "last", Kind: FaultFails, When: "5 attempts fail, or one with a Terminal error"},
		{Step: "last", Kind: FaultUndoFails, When: "its undo: 3 attempts fail, or one with a Terminal error"},
		{Step: "book", Kind: FaultUndoFails, When: "its undo: a Terminal error; any other is tried again, without end"},
		{Step: "truck", Kind: FaultFails, When: "its saga cart is compensated, or can't be started"},
		{Step: "cargo", Kind: FaultFails, When: "a saga cart of an item is compensated, or can't be started"},
		{Step: "cargo", Kind: FaultUndoFails, Cannot: "its sagas undo themselves; while one of them is stuck, this one waits for it"},
		{Step: "forever", Kind: FaultFails, Cannot: "it waits without end"},
		{Step: "rest", Kind: FaultFails, Cannot: "time passes by itself"},
		{Step: "until", Kind: FaultFails, When: "its Until fails"},
	} {
		if !slices.ContainsFunc(p.Faults, func(f Fault) bool {
			return f.Step == want.Step && f.Kind == want.Kind && f.When == want.When && f.Cannot == want.Cannot
		}) {
			t.Errorf("there is no row %+v", want)
		}
	}

	// The registered graph says as much as the code, also through JSON; and so does the plan.
	g, _ := def.definition()
	raw, err := json.Marshal(g.public())
	if err != nil {
		t.Fatal(err)
	}
	var stored Graph
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	fromStored := outlineOf(t, stored)
	fromStored.Name, fromStored.Version = "parcel", 4
	if !reflect.DeepEqual(fromStored, p) {
		t.Error("the stored graph gives another plan")
	}
	raw, err = json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again Plan
	if err := json.Unmarshal(raw, &again); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, p) {
		t.Error("the plan does not survive JSON")
	}
}

func TestOutlineRefuses(t *testing.T) {
	if _, err := Outline(nil); err == nil {
		t.Error("nil has a plan")
	}
	if _, err := Outline(Saga[parcel]{Version: 0}); err == nil || !strings.Contains(err.Error(), "Version") || !strings.Contains(err.Error(), "no steps") {
		t.Errorf("%v, want all that is wrong", err)
	}
	for name, p := range map[string]Graph{
		"of the unknown kind dance": {Steps: []GraphStep{{Name: "a", Kind: "dance"}}},
		"not among Steps":           {Steps: []GraphStep{{Name: "a", Kind: "tx", After: []string{"b"}}}},
		"comes after itself":        {Steps: []GraphStep{{Name: "a", Kind: "tx", After: []string{"b"}}, {Name: "b", Kind: "tx", After: []string{"a"}}}},
	} {
		if _, err := p.Outline(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q in it", err, name)
		}
	}
}

// Drawn at random: what the plan says of a graph is what a slow and simple look at it says.
func TestOutlineOfAnyGraph(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		choose := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") }
		g := drawShape(choose).graph()
		p, err := g.public().Outline()
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]int{}
		for k, name := range p.Order {
			at[name] = k
		}
		if len(at) != len(g.nodes) {
			t.Fatalf("the order %q has not every step once", p.Order)
		}
		for i := range g.nodes {
			for j := range g.nodes {
				if g.descendants[i][j] && at[g.nodes[i].name] > at[g.nodes[j].name] {
					t.Fatalf("%s comes before %s in %q", g.nodes[j].name, g.nodes[i].name, p.Order)
				}
			}
		}
		widest, longest := 0, 0
		for set := range 1 << len(g.nodes) {
			free, chain, n := true, true, 0
			for i := range g.nodes {
				if set>>i&1 == 0 {
					continue
				}
				n++
				for j := range i {
					if set>>j&1 == 1 {
						ordered := g.descendants[i][j] || g.descendants[j][i]
						free, chain = free && !ordered, chain && ordered
					}
				}
			}
			if free {
				widest = max(widest, n)
			}
			if chain {
				longest = max(longest, n)
			}
		}
		if p.Width != widest || len(p.Widest) != widest {
			t.Fatalf("width %d, widest %q, want %d", p.Width, p.Widest, widest)
		}
		for _, a := range p.Widest {
			for _, b := range p.Widest {
				if g.isAncestor(a, b) {
					t.Fatalf("%s comes after %s, and both are in the widest %q", b, a, p.Widest)
				}
			}
		}
		if len(p.CriticalPath) != longest || len(p.Layers) != longest {
			t.Fatalf("critical path %q, %d layers, want %d", p.CriticalPath, len(p.Layers), longest)
		}
		for _, f := range p.Faults {
			if f.Cannot == "" && f.End != Completed && f.End != Compensated && f.End != Stuck {
				t.Fatalf("%+v", f)
			}
			checkUndone(t, g, f.Course)
			for _, a := range f.Answers {
				checkUndone(t, g, a.Course)
			}
		}
		for _, f := range p.Faults { // these shapes have no pivot, and nothing that gives up an undo but for good
			if f.Cannot != "" || f.Kind == FaultUndoFails {
				continue
			}
			want := Compensated
			if g.nodes[g.index[f.Step]].optional {
				want = Completed
			}
			if f.End != want {
				t.Fatalf("%s, want %s", f.tell(), want)
			}
		}
	})
}

// checkUndone: nothing is undone twice, or before what comes after it.
func checkUndone(t *rapid.T, g *graph, c Course) {
	var before []string
	for _, group := range c.Undone {
		for _, name := range group {
			if slices.Contains(before, name) {
				t.Fatalf("%s is undone twice in %q", name, c.Undone)
			}
			before = append(before, name)
			for _, earlier := range before {
				if g.isAncestor(earlier, name) {
					t.Fatalf("%s is undone before %s in %q", earlier, name, c.Undone)
				}
			}
		}
	}
}

// What plan has said before is remembered across faults: each gives what it gives alone.
func TestFaultsAloneAndTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		choose := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") }
		p := drawShape(choose).graph().public()
		for i, s := range p.Steps {
			if s.Undo {
				p.Steps[i].UndoFailure = []UndoFailure{UndoStuck, UndoContinue, UndoSkip}[choose(3)]
			}
			if p.Steps[i].UndoFailure == UndoStuck && s.Undo && s.Kind == "activity" {
				p.Steps[i].ManualUndo, p.Steps[i].Lookup = choose(4) == 1, choose(2) == 1
			}
		}
		together, err := p.Outline()
		if err != nil {
			t.Fatal(err)
		}
		g, err := p.skeleton()
		if err != nil {
			t.Fatal(err)
		}
		row := 0
		for _, name := range together.Order {
			for _, kind := range []FaultKind{FaultFails, FaultUnknown, FaultUndoFails} {
				i := g.index[name]
				o := outline{p: p, g: g, order: g.order(), memo: map[string]decision{}}
				if _, cannot := o.cause(i, kind); cannot != "" {
					row++
					continue
				}
				for _, c := range o.courses(i, kind) {
					o.memo = map[string]decision{}
					alone, err := o.follow(Fault{Step: name, Kind: kind}, i, c)
					if err != nil {
						t.Fatal(err)
					}
					if alone.tell() != together.Faults[row].tell() {
						t.Fatalf("alone     %s\ntogether  %s", alone.tell(), together.Faults[row].tell())
					}
					row++
				}
			}
		}
	})
}

// Big sagas have plans too: the work of one fault is not that of another.
func TestOutlineOfManySteps(t *testing.T) {
	const steps = 300
	for name, preds := range map[string]func(i int) []int{
		"chain": func(i int) []int { return []int{i - 1}[:min(i, 1)] },
		"layers": func(i int) (ps []int) {
			for j := (i/25 - 1) * 25; j >= 0 && j < i/25*25; j++ {
				ps = append(ps, j)
			}
			return ps
		},
		"wide": func(int) []int { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := Graph{}
			for i := range steps {
				s := GraphStep{Name: fmt.Sprint("s", i), Kind: "activity", Undo: true, Tuning: Tuning{Attempts: 5}}
				for _, j := range preds(i) {
					s.After = append(s.After, fmt.Sprint("s", j))
				}
				p.Steps = append(p.Steps, s)
			}
			plan := outlineOf(t, p)
			if want := map[string]int{"chain": 1, "layers": 25, "wide": steps}[name]; plan.Width != want {
				t.Errorf("width %d, want %d", plan.Width, want)
			}
			if want := map[string]int{"chain": steps, "layers": steps / 25, "wide": 1}[name]; len(plan.UndoOrder) != want {
				t.Errorf("%d groups are undone, want %d", len(plan.UndoOrder), want)
			}
			if len(plan.Faults) != 3*steps {
				t.Errorf("%d faults", len(plan.Faults))
			}
		})
	}
}

// Functions of a definition that must not be called.

func noTx[I Input](context.Context, pgx.Tx, Call[I]) (int, error) { panic(notCalled) }

func noTxUndo[I Input](context.Context, pgx.Tx, Call[I], int) error { panic(notCalled) }

func noItems(context.Context, Call[parcel]) ([]cart, error) { panic(notCalled) }

func noChild(context.Context, Call[parcel]) (cart, error) { panic(notCalled) }

func noTime(context.Context, Call[parcel]) (time.Time, error) { panic(notCalled) }
