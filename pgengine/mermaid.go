package pgengine

import (
	"fmt"
	"strings"
)

// Mermaid draws the graph as a Mermaid flowchart: a box a step, with its kind and whatever makes it special.
func (p Graph) Mermaid() string { return p.draw(nil) }

// MermaidOf draws the graph with what became of a saga drawn in: a colour for each step that is done, has failed, runs, waits, was
// skipped or undone, its state in its box, and an edge back for each undo.
func (p Graph) MermaidOf(s Status) string { return p.draw(&s) }

func (p Graph) draw(of *Status) string {
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	ids, classes := map[string]string{}, map[string][]string{}
	for i, s := range p.Steps {
		id := fmt.Sprint("s", i)
		ids[s.Name] = id
		left, right := s.box()
		label := s.label(s.Name == p.Output)
		if of != nil {
			said, class := of.drawn(s.Name)
			label, classes[class] = append(label, said), append(classes[class], id)
		}
		fmt.Fprintf(&b, "    %s%s\"%s\"%s\n", id, left, strings.Join(label, "<br/>"), right)
		if s.Pivot {
			classes["pivot"] = append(classes["pivot"], id)
		}
		if s.Optional || s.When {
			classes["perhaps"] = append(classes["perhaps"], id)
		}
	}
	for _, s := range p.Steps {
		for _, before := range s.After {
			fmt.Fprintf(&b, "    %s --> %s\n", ids[before], ids[s.Name])
		}
	}
	if of != nil {
		b.WriteString(p.undoEdges(*of, ids))
	}
	for _, class := range []struct{ name, style string }{
		{"pivot", "stroke-width:4px"}, {"perhaps", "stroke-dasharray:5 5"},
		{"done", "fill:#d5f5d5"}, {"failed", "fill:#f8d0d0"}, {"running", "fill:#d0e4f8"}, {"waiting", "fill:#fff3c4"}, {"stuck", "fill:#f0a0a0"},
		{"skipped", "fill:#eeeeee"}, {"undone", "fill:#e6d5f5"},
	} {
		if of := classes[class.name]; of != nil {
			fmt.Fprintf(&b, "    classDef %s %s\n    class %s %s\n", class.name, class.style, strings.Join(of, ","), class.name)
		}
	}
	return b.String()
}

// box is the shape of a step: what works in Postgres has corners, what is outside has none.
func (s GraphStep) box() (left, right string) {
	switch kind(s.Kind) {
	case kindTx:
		return "[", "]"
	case kindAwait:
		return "{{", "}}"
	case kindSleep:
		return "([", "])"
	case kindChild, kindEach:
		return "[[", "]]"
	}
	return "(", ")"
}

// label is what is written into it, line by line. Names need no quoting: graphs are checked.
func (s GraphStep) label(output bool) []string {
	what := s.Kind
	switch {
	case s.Signal != "":
		what += " " + s.Signal
	case s.Child != "":
		what += " " + s.Child
	}
	var more []string
	for _, fact := range []struct {
		is   bool
		name string
	}{
		{s.Pivot, "pivot"}, {s.Optional, "optional"}, {s.When, "when"}, {s.ManualUndo, "undone by hand"},
		{s.Recover, "recover"}, {output, "output"},
	} {
		if fact.is {
			more = append(more, fact.name)
		}
	}
	lines := []string{s.Name, what}
	if more != nil {
		lines = append(lines, strings.Join(more, ", "))
	}
	return lines
}

// drawn is what a box says of what became of its step, and its class.
func (s Status) drawn(step string) (said, class string) {
	for _, t := range s.Steps { // by the time they ended: the last one counts
		if t.Step != step {
			continue
		}
		said = t.State
		switch class = t.State; {
		case t.InDoubt:
			said += ", in doubt"
		case t.State == "nothing":
			class = "undone"
		case t.State == "awaiting", t.State == "sleeping", t.State == "child":
			class = "waiting"
		}
		if t.Direction == Undo {
			if said = "undo " + said; t.State == "done" {
				said, class = "undone", "undone"
			}
		}
	}
	if said == "" {
		return "not begun", ""
	}
	return said, class
}

// undoEdges lead from each undo to the next, in the order in which they ended.
func (p Graph) undoEdges(s Status, ids map[string]string) string {
	var b strings.Builder
	last := ""
	for _, t := range s.Steps {
		if t.Direction != Undo || t.EndedAt == nil {
			continue
		}
		if last != "" && last != ids[t.Step] {
			fmt.Fprintf(&b, "    %s -. undo .-> %s\n", last, ids[t.Step])
		}
		last = ids[t.Step]
	}
	return b.String()
}
