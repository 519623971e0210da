package pgengine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// What becomes of an order in every fault, found out without running it.
func ExampleOutline() {
	plan, err := pgengine.Outline(Fulfil(nil, nil, nil, nil)) // nobody is called
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("critical path:", strings.Join(plan.CriticalPath, ", "))
	fmt.Println("at once:", strings.Join(plan.Widest, ", "))
	fmt.Println("undone:", plan.UndoOrder)
	for _, f := range plan.Faults {
		if f.Step == "ship" && f.Cannot == "" {
			fmt.Println(f.Step, f.Kind+":", f.End, "undone", f.Undone, "stays", f.Stays)
		}
	}
	// Output:
	// critical path: reserve, charge, ship
	// at once: ship, notify
	// undone: [[charge] [reserve]]
	// ship fails: compensated undone [[charge] [reserve]] stays [notify]
	// ship unknown: compensated undone [[charge] [reserve]] stays [ship notify]
}

func TestMermaid(t *testing.T) {
	t.Parallel()
	a := step("a")
	a.Optional = true
	b := pgengine.TxStep[part, int]{Name: "b", After: pgengine.Steps(a), When: func(partCall) bool { panic("a drawing runs nothing") }, Do: nil}
	if _, err := pgengine.Outline(saga(a, b)); err == nil || !strings.Contains(err.Error(), "has no Do") {
		t.Errorf("a plan of what can't run: %v", err)
	}
	wait := pgengine.Await[part, approval]{Name: "wait", After: pgengine.Steps(a)}
	nap := pgengine.Sleep[part]{Name: "nap", After: pgengine.Steps[part](wait), For: 1}
	kids := pgengine.Each[part, leg, int]{
		Name: "kids", After: pgengine.Steps[part](wait, nap),
		Inputs: func(context.Context, partCall) ([]leg, error) { panic("a drawing runs nothing") },
	}
	e := engine(t, nil, pgengine.Saga[part]{Version: 1, Output: kids, Steps: pgengine.Steps[part](a, wait, nap, kids)})
	g, _, err := e.Graph(t.Context(), "part", 1)
	if err != nil {
		t.Fatal(err)
	}
	const want = `flowchart TD
    s0("a<br/>activity<br/>optional")
    s1{{"wait<br/>await approval"}}
    s2(["nap<br/>sleep"])
    s3[["kids<br/>each leg<br/>output"]]
    s0 --> s1
    s1 --> s2
    s1 --> s3
    s2 --> s3
    classDef perhaps stroke-dasharray:5 5
    class s0 perhaps
`
	if got := g.Mermaid(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if _, err := g.Answers("nowhere", pgengine.Do); err == nil {
		t.Error("an operator may say something of a step that is not there")
	}
}
