package inbox_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// TestRedrive: a dead letter is handled again as a new attempt, which takes effect once; one that fails
// again comes back; one that is dropped is gone.
func TestRedrive(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	messages := letters(6, 2)
	b.Publish(messages...)
	var mended atomic.Bool
	var seen sync.Map
	handler := func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if !mended.Load() {
			return errors.New("broken")
		}
		seen.Store(m.ID, m)
		return writes("c")(ctx, tx, m)
	}
	stop := run(t, pool, b.Source("c"), handler, inbox.Config{MaxAttempts: 2})
	run(t, pool, b.Source("c"), handler, inbox.Config{MaxAttempts: 2}) // they must not do it twice
	drained(t, b)
	dead := deadLetters(t, pool)
	if len(dead) != 6 {
		t.Fatalf("%d dead letters", len(dead))
	}
	one, err := inbox.Dead(t.Context(), pool, dead[2].ID)
	if err != nil || one.Message.ID != dead[2].Message.ID {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := inbox.Dead(t.Context(), pool, 1e9); !errors.Is(err, inbox.ErrNoDeadLetter) {
		t.Error(err)
	}
	if ids, err := inbox.Drop(t.Context(), pool, inbox.By{}, dead[5].ID, 1e9); err != nil || !slices.Equal(ids, []int64{dead[5].ID}) {
		t.Errorf("dropped %v, %v", ids, err)
	}

	// It fails again, and is back.
	if ids, err := inbox.Redrive(t.Context(), pool, inbox.By{}, dead[0].ID); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	eventually(t, "it is back", func() bool {
		d, err := inbox.Dead(t.Context(), pool, dead[0].ID)
		return err == nil && !d.Redriving && d.Attempts >= 4 && d.Redrives == 1 // both consumers may have tried
	})
	mended.Store(true)
	var ids []int64
	for _, d := range dead[:5] {
		ids = append(ids, d.ID)
	}
	if got, err := inbox.Redrive(t.Context(), pool, inbox.By{}, ids...); err != nil || len(got) != 5 {
		t.Fatal(got, err)
	}
	if got, err := inbox.Redrive(t.Context(), pool, inbox.By{}, ids...); err != nil || len(got) > 0 {
		t.Errorf("they were asked for again: %v, %v", got, err)
	}
	eventually(t, "all are done", func() bool { return len(deadLetters(t, pool)) == 0 })
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 5 {
		t.Errorf("%d effects", n)
	}
	seen.Range(func(_, v any) bool {
		if m := v.(inbox.Message); m.Attempt == "" || m.EventID() == inbox.EventID(m.Source, m.ID) || m.Topic != "letters" {
			t.Errorf("%+v", m)
		}
		return true
	})
	// The events themselves count as taken.
	b.Publish(messages...)
	drained(t, b)
	stop()
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 5 {
		t.Errorf("%d effects after a redelivery", n)
	}
}

// TestReplay: a message that is sent again on purpose carries an attempt id, and takes effect once more for it.
func TestReplay(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID()}
	for _, c := range []struct {
		attempt string
		want    bool
	}{{"", true}, {"", false}, {"november", true}, {"november", false}, {"december", true}} {
		m.Attempt = c.attempt
		if first, err := inbox.Process(t.Context(), pool, "c", m, writes("c")); err != nil || first != c.want {
			t.Errorf("attempt %q: %v, %v", c.attempt, first, err)
		}
	}
}

// TestOlderThanRetention: such a message is refused where one can see it, and not processed again.
func TestOlderThanRetention(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	days(t, pool, 60)
	if _, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 30 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	b := newBroker()
	old := time.Now().AddDate(0, 0, -45)
	messages := []inbox.Message{{ID: at(old)}, {ID: "evt-1", Time: old}, {ID: newID()}}
	b.Publish(append(messages, messages...)...)
	run(t, pool, b.Source("c"), writes("c"), inbox.Config{})
	drained(t, b)
	dead := deadLetters(t, pool)
	if len(dead) != 2 || dead[0].Reason != "too old" || dead[1].Reason != "too old" {
		t.Fatalf("%+v", dead)
	}
	if got := list[string](t, pool, `SELECT event FROM ledger`); !slices.Equal(got, []string{messages[2].ID}) {
		t.Errorf("effects of %v", got)
	}
	// An operator who knows that it had none can have it processed.
	if _, err := inbox.Redrive(t.Context(), pool, inbox.By{}, dead[0].ID, dead[1].ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is done", func() bool { return len(deadLetters(t, pool)) == 0 })
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 3 {
		t.Errorf("%d effects", n)
	}
}
