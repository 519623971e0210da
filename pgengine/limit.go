package pgengine

import (
	"fmt"
	"time"
)

// Limit bounds how many calls of a step, or how many sagas, run at once, and how often one may begin: over all workers, by
// what Postgres says. What comes too early waits, first come, first served; nothing is dropped. A lane that waits
// holds no worker. The zero value is no limit.
//
// Each attempt counts. One that has failed gives its place up until the next is due, and then stands in line again. What
// a dead worker held is free once it is taken for dead; a call that goes on all the same, in a process that hangs,
// can't be counted. A step's undo does not stand in line, unless Undo says so: what turns back does
// not wait for what goes forward. Nor does the Lookup, or the repetition of a Do in doubt, that belongs to an undo.
type Limit[I Input] struct {
	// Name is what is limited. Steps and sagas with one name share the limit, and should say the same numbers: those
	// of whoever came last count. "": the step, or the saga, itself, in all its versions.
	Name string
	// Concurrency is how many may run at once. 0: any number.
	Concurrency int
	// Rate is how many may begin in each Per, evenly spread. 0: any number.
	Rate int
	Per  time.Duration // 0: 1 s
	// Key says for whom, such as a customer or an account: each key has the limit for itself. It decides by the input and
	// what came before, and does nothing. nil: one limit for all.
	Key func(c Call[I]) string
	// Undo has the step's undos stand in line, too.
	Undo bool
}

// gate is a Limit without its types.
type gate struct {
	name        string
	concurrency int           // 0: any number
	spacing     time.Duration // between two that begin; 0: none
	undo        bool
	key         func(*call) (string, error) // nil: one for all
	words       string
}

// maxLimitKey is how many bytes a limit's key may have: it stands in an index.
const maxLimitKey = 512

// gate is nil if there is no limit; wrong says what makes no sense.
func (l Limit[I]) gate() (g *gate, wrong string) {
	if l.Name == "" && l.Concurrency == 0 && l.Rate == 0 && l.Per == 0 && l.Key == nil && !l.Undo {
		return nil, ""
	}
	if l.Rate != 0 && l.Per == 0 {
		l.Per = time.Second
	}
	switch {
	case l.Concurrency < 0 || l.Rate < 0 || l.Per < 0:
		return nil, "Limit: a number is negative"
	case l.Concurrency == 0 && l.Rate == 0:
		return nil, "Limit: it has neither a Concurrency nor a Rate"
	case l.Rate == 0 && l.Per != 0:
		return nil, "Limit: it has a Per without a Rate"
	case l.Rate > 0 && l.Per/time.Duration(l.Rate) < time.Microsecond:
		return nil, fmt.Sprintf("Limit: %d in %v are more than one a microsecond", l.Rate, l.Per)
	case l.Name != "" && !ownNameRule.MatchString(l.Name):
		return nil, fmt.Sprintf("Limit: the name %q must match %s", l.Name, ownNameRule)
	}
	g = &gate{name: l.Name, concurrency: l.Concurrency, undo: l.Undo}
	if l.Concurrency > 0 {
		g.words = fmt.Sprintf("%d at once", l.Concurrency)
	}
	if l.Rate > 0 {
		g.spacing = l.Per / time.Duration(l.Rate)
		if g.words != "" {
			g.words += ", "
		}
		g.words += fmt.Sprintf("%d in %v", l.Rate, l.Per)
	}
	if l.Key != nil {
		g.words += " each key"
		g.key = func(c *call) (string, error) {
			typed, err := typedCall[I](c)
			if err != nil {
				return "", err
			}
			return l.Key(typed), nil
		}
	}
	return g, ""
}

// String is what tools show; "" of none.
func (g *gate) String() string {
	if g == nil {
		return ""
	}
	return g.words
}

// same says whether g and o are copies of one limit. Only that of a listed step has been named.
func (g *gate) same(o *gate) bool {
	if g == nil || o == nil {
		return g == o
	}
	return g.concurrency == o.concurrency && g.spacing == o.spacing && g.undo == o.undo
}

// named gives the limit its name, unless it has one.
func (g *gate) named(name string) {
	if g != nil && g.name == "" {
		g.name = name
	}
}

func (n *node) limited(g *gate, wrong string) {
	if n.gate = g; wrong != "" {
		n.wrong(wrong)
	}
}

// nameLimits gives each step's limit its name, and refuses one name with two meanings.
func (g *graph) nameLimits(wrong func(step, format string, args ...any)) {
	first := map[string]node{}
	for _, n := range g.nodes {
		if n.gate == nil {
			continue
		}
		n.gate.named(g.name + "/" + n.name)
		f, ok := first[n.gate.name]
		if ok && (f.gate.concurrency != n.gate.concurrency || f.gate.spacing != n.gate.spacing) {
			wrong(n.name, "its Limit %q is %s, and that of %q is %s", n.gate.name, n.gate, f.name, f.gate)
		}
		first[n.gate.name] = n
	}
}

// line is the key of the line that a call stands in.
func (g *gate) line(c *call) (key string, err error) {
	if g.key == nil {
		return "", nil
	}
	err = guarded(func() (err error) {
		key, err = g.key(c)
		return err
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("the Key of its Limit: %w", err)
	case len(key) > maxLimitKey:
		return "", Terminal(fmt.Errorf("the key of its Limit has %d bytes, at most %d are allowed", len(key), maxLimitKey))
	case storable(key) != key:
		return "", Terminal(fmt.Errorf("the key of its Limit is no text: %q", key))
	}
	return key, nil
}
