package outbox

import (
	"strings"
	"testing"
)

// TestGuardsWarn: what harms the whole server is said in words once it is too much, and not before.
func TestGuardsWarn(t *testing.T) {
	well := Guards{XminAge: 900_000, OldestTransaction: 599, NotifyQueue: 0.04}
	if w := well.warn(); len(w) > 0 {
		t.Errorf("%+v: %q", well, w)
	}
	for says, g := range map[string]Guards{
		"snapshot":    {XminAge: 1_100_000},
		"transaction": {OldestTransaction: 601},
		"prepared":    {Prepared: 1},
		"NOTIFY":      {NotifyQueue: 0.06},
	} {
		if w := g.warn(); len(w) != 1 || !strings.Contains(w[0], says) {
			t.Errorf("%+v: %q, want a word of %s", g, w, says)
		}
	}
}
