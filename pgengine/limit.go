package pgengine

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limit bounds how many calls of a step, or how many sagas, run at once, and how often one may begin: over all workers, by
// what Postgres says. What comes too early waits, first come, first served; nothing is dropped. A lane that waits
// holds no worker. The zero value is no limit; several at once are [Limits].
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

	all []Limit[I] // of Limits
}

// Limits is all of these limits at once, for the Limit of a step or a saga:
//
//	Limit: pgengine.Limits(
//		pgengine.Limit[Sale]{Name: "bank", Concurrency: 20},
//		pgengine.Limit[Sale]{Name: "merchant", Concurrency: 1, Key: merchant},
//	)
//
// What waits for one of them takes no place in another, and begins at the latest of the times that they allow. They have names of their own, but
// for those that differ by their Key alone: then each key counts, and once if they are the same. At most eight.
func Limits[I Input](all ...Limit[I]) Limit[I] {
	return Limit[I]{all: all}
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

// gates are the limits of a step or of a saga; none: it has none.
type gates []*gate

const (
	// maxLimitKey is how many bytes a limit's key may have: it stands in an index.
	maxLimitKey = 512
	// maxLimits is how many limits a step may have: it holds the lines of all at once.
	maxLimits = 8
)

// gates are those of a Limit; wrong says what makes no sense.
func (l Limit[I]) gates() (gs gates, wrong string) {
	own := l
	own.all = nil
	g, wrong := own.gate()
	switch {
	case wrong != "":
		return nil, wrong
	case g != nil && l.all != nil:
		return nil, "Limit: what Limits gives has fields of its own: set those of its parts"
	case g != nil:
		return gates{g}, ""
	}
	for _, part := range l.all {
		more, wrong := part.gates()
		if wrong != "" {
			return nil, wrong
		}
		gs = append(gs, more...)
	}
	if len(gs) > maxLimits {
		return nil, fmt.Sprintf("Limit: %d limits at once, at most %d are allowed", len(gs), maxLimits)
	}
	return gs, ""
}

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
func (gs gates) String() string {
	var words []string
	for _, g := range gs {
		words = append(words, g.words)
	}
	return strings.Join(words, "; ")
}

// same says whether gs and other are copies of one Limit. Only those of a listed step have been named.
func (gs gates) same(other gates) bool {
	return slices.EqualFunc(gs, other, func(g, o *gate) bool {
		return g.concurrency == o.concurrency && g.spacing == o.spacing && g.undo == o.undo && (g.key == nil) == (o.key == nil)
	})
}

// of are those that a step's Do, or its Undo, stands in line for.
func (gs gates) of(d Direction) gates {
	if d != Undo {
		return gs
	}
	return slices.DeleteFunc(slices.Clone(gs), func(g *gate) bool { return !g.undo })
}

// count: they bound how many run at once, so that there is a place to be left.
func (gs gates) count() bool {
	return slices.ContainsFunc(gs, func(g *gate) bool { return g.concurrency > 0 })
}

// named gives those a name that have none, and says what makes no sense of them together; "": nothing.
func (gs gates) named(name string) (wrong string) {
	for i, g := range gs {
		if g.name == "" {
			g.name = name
		}
		for _, o := range gs[:i] {
			switch {
			case g.name != o.name:
			case g.key == nil || o.key == nil:
				return fmt.Sprintf("two of its Limits are named %q, and not both have a Key: give each a Name of its own", g.name)
			case g.concurrency != o.concurrency || g.spacing != o.spacing:
				return fmt.Sprintf("two of its Limits are named %q: one is %s, and one is %s", g.name, o.words, g.words)
			}
		}
	}
	return ""
}

// blocks names a limit of a saga that a step of it would wait for in vain; "": none. Of limits with a Key nobody knows.
func (gs gates) blocks(step gates) string {
	for _, g := range gs {
		for _, o := range step {
			if g.name == o.name && g.key == nil && o.key == nil && g.concurrency > 0 && o.concurrency > 0 {
				return g.name
			}
		}
	}
	return ""
}

func (n *node) limited(gs gates, wrong string) {
	if n.gates = gs; wrong != "" {
		n.wrong(wrong)
	}
}

// nameLimits gives each step's limits their names, and refuses one name with two meanings.
func (g *graph) nameLimits(wrong func(step, format string, args ...any)) {
	type meant struct {
		step string
		gate *gate
	}
	first := map[string]meant{}
	for _, n := range g.nodes {
		if p := n.gates.named(g.name + "/" + n.name); p != "" {
			wrong(n.name, "%s", p)
			continue
		}
		for _, gate := range n.gates {
			f, ok := first[gate.name]
			if ok && (f.gate.concurrency != gate.concurrency || f.gate.spacing != gate.spacing) {
				wrong(n.name, "its Limit %q is %s, and that of %q is %s", gate.name, gate.words, f.step, f.gate.words)
			}
			first[gate.name] = meant{n.name, gate}
		}
	}
}

// line is one that a lane stands in: of a limit, and of a key.
type line struct {
	*gate
	key string
}

// lines are those that a call stands in. Two limits of one name and one key are one line.
func (gs gates) lines(c *call) (lines []line, err error) {
	for _, g := range gs {
		key, err := g.line(c)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(lines, func(o line) bool { return o.name == g.name && o.key == key }) {
			lines = append(lines, line{g, key})
		}
	}
	return lines, nil
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
