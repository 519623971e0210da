package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// TestOffsetsGoForward: who says late how far he came takes nobody back, unless he means to.
func TestOffsetsGoForward(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	offsets, others := inbox.NewOffsets(pool, "mailer"), inbox.NewOffsets(pool, "search")
	check := func(o *inbox.Offsets, want ...string) {
		t.Helper()
		all, err := o.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, at := range all {
			got = append(got, fmt.Sprintf("%s/%d/%d", at.Topic, at.Partition, at.Next))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	check(offsets)
	for _, save := range [][]inbox.Offset{{{"a", 0, 5, 0}, {"a", 1, 7, 0}}, {{"a", 0, 3, 0}, {"b", 0, 0, 0}}, {{"a", 1, 8, 0}}, {}} {
		if err := offsets.Save(t.Context(), save...); err != nil {
			t.Fatal(err)
		}
	}
	check(offsets, "a/0/5", "a/1/8", "b/0/0")
	check(others)
	if err := offsets.Reset(t.Context(), inbox.Offset{Topic: "a", Partition: 0, Next: 1}); err != nil {
		t.Fatal(err)
	}
	check(offsets, "a/0/1", "a/1/8", "b/0/0")
	// Whoever counts from before the reset is told so, and what else he saves is saved.
	for _, write := range []func(context.Context, ...inbox.Offset) error{offsets.Save, offsets.Reset} {
		if err := write(t.Context(), inbox.Offset{Topic: "a", Partition: 0, Next: 6}, inbox.Offset{Topic: "c", Partition: 0, Next: 1}); !errors.Is(err, inbox.ErrReset) {
			t.Errorf("%v, want ErrReset", err)
		}
	}
	check(offsets, "a/0/1", "a/1/8", "b/0/0", "c/0/1")
	for next := range int64(3) {
		all, err := offsets.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at := all[slices.IndexFunc(all, func(at inbox.Offset) bool { return at.Topic == "a" && at.Partition == 0 })]
		if at.Next = next; next > 0 {
			err = offsets.Reset(t.Context(), at)
		} else {
			err = offsets.Save(t.Context(), at)
		}
		if err != nil {
			t.Error(err)
		}
	}
	check(offsets, "a/0/2", "a/1/8", "b/0/0", "c/0/1")
	if err := offsets.Save(t.Context(), inbox.Offset{Topic: "a", Partition: 0, Next: -1}); err == nil {
		t.Error("an offset below zero is saved")
	}
}
