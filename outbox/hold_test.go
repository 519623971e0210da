package outbox

import (
	"slices"
	"testing"
)

// TestAHeldKeyIsProbedByItsFirst: while its first event fails, or the broker does, no other body of a held key is read; and then some at a time.
func TestAHeldKeyIsProbedByItsFirst(t *testing.T) {
	ids := slices.Repeat([]int64{1}, 1000)
	for _, c := range []struct {
		what string
		h    hold
		want int
	}{
		{"nothing failed", hold{ids: ids}, holdBatch},
		{"few are left", hold{ids: ids[:3]}, 3},
		{"the first was rejected", hold{ids: ids, attempts: 1}, 1},
		{"the broker is away", hold{ids: ids, failures: 1}, 1},
		{"none is left", hold{failures: 1}, 0},
	} {
		if got := c.h.batch(); got != c.want {
			t.Errorf("%s: %d events, want %d", c.what, got, c.want)
		}
	}
	if holdBatch*MaxPayload > windowBytes {
		t.Error("a read of held keys may be larger than the window")
	}
}
