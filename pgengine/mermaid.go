package pgengine

import (
	"fmt"
	"strings"
)

// Mermaid draws the graph as a Mermaid flowchart: a box a step, with its kind and whatever makes it special.
func (p Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	ids, classes := map[string]string{}, map[string][]string{}
	for i, s := range p.Steps {
		id := fmt.Sprint("s", i)
		ids[s.Name] = id
		left, right := s.box()
		fmt.Fprintf(&b, "    %s%s\"%s\"%s\n", id, left, strings.Join(s.label(s.Name == p.Output), "<br/>"), right)
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
	for _, class := range []struct{ name, style string }{
		{"pivot", "stroke-width:4px"}, {"perhaps", "stroke-dasharray:5 5"},
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
