package inbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// These tests are named after what the inbox of sagaz, which this one takes the place of, got wrong.

// The dedup row was committed before the handler ran: a handler that failed lost the message.
func TestSagazLostWhatItsHandlerFailedOn(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID()}
	if first, err := inbox.Process(t.Context(), pool, "c", m, func(context.Context, pgx.Tx, inbox.Message) error { return errors.New("no") }); err == nil || first {
		t.Errorf("%v, %v", first, err)
	}
	if first, err := inbox.Process(t.Context(), pool, "c", m, writes("c")); err != nil || !first || effects(t, pool, "c", m.ID) != 1 {
		t.Errorf("the redelivery: %v, %v, %d effects", first, err, effects(t, pool, "c", m.ID))
	}
}

// The primary key was the event's id alone: a second consumer got nothing.
func TestSagazServedOneConsumerAnEvent(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID()}
	for _, consumer := range []string{"a", "b", "c"} {
		if first, err := inbox.Process(t.Context(), pool, consumer, m, writes(consumer)); err != nil || !first || effects(t, pool, consumer, m.ID) != 1 {
			t.Errorf("consumer %s: %v, %v", consumer, first, err)
		}
	}
}

// A duplicate was a unique violation, which aborted the caller's transaction.
func TestSagazDuplicateAbortedTheCallersTransaction(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	id := newID()
	if _, err := claims(t, pool, "c", id, nil); err != nil {
		t.Fatal(err)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if first, err := inbox.Claim(t.Context(), tx, "c", id, nil); err != nil || first {
			t.Errorf("%v, %v", first, err)
		}
		return writes("after")(t.Context(), tx, inbox.Message{ID: id})
	})
	if err != nil || effects(t, pool, "after", id) != 1 {
		t.Errorf("%v: the transaction should go on", err)
	}
}

// A duplicate was acked while the first was still being handled, and might fail yet.
func TestSagazAckedADuplicateWhileTheFirstRan(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID()}
	began, goOn := make(chan struct{}), make(chan struct{})
	go func() {
		_, _ = inbox.Process(t.Context(), pool, "c", m, func(context.Context, pgx.Tx, inbox.Message) error {
			close(began)
			<-goOn
			return errors.New("it fails in the end")
		})
	}()
	<-began
	source := &stub{deliveries: []inbox.Delivery{{Message: m}}}
	run(t, pool, source, writes("c"), inbox.Config{})
	waitsForLock(t, pool, 1)
	if source.acked.Load() != 0 {
		t.Error("the duplicate was acked")
	}
	close(goOn)
	eventually(t, "the duplicate takes effect itself", func() bool { return source.acked.Load() == 1 })
	if n := effects(t, pool, "c", m.ID); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// None meant both a duplicate and a handler without a result.
func TestSagazCouldNotTellADuplicateFromNothing(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID()}
	for _, want := range []bool{true, false} {
		if first, err := inbox.Process(t.Context(), pool, "c", m, inbox.Ignore); err != nil || first != want {
			t.Errorf("%v, %v; want %v", first, err, want)
		}
	}
}

// An id that was no UUID was a DataError.
func TestSagazTookUUIDsOnly(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	for _, m := range []inbox.Message{{ID: "evt-123", Source: "a"}, {ID: "evt-123", Source: "b"}, {ID: "17"}, {ID: "Ünïcödé"}} {
		for _, want := range []bool{true, false} {
			if first, err := inbox.Process(t.Context(), pool, "c", m, writes("c")); err != nil || first != want {
				t.Errorf("%q of %q: %v, %v; want %v", m.ID, m.Source, first, err, want)
			}
		}
	}
}

// Payloads were kept for ever, unless somebody called a cleanup that nobody called.
func TestSagazKeptPayloadsForEver(t *testing.T) {
	t.Parallel()
	for keep, want := range map[bool]int{false: 0, true: 10} {
		pool := newLedger(t)
		b := newBroker()
		b.Publish(letters(10, 3)...)
		run(t, pool, b.Source("c"), writes("c"), inbox.Config{KeepPayload: keep})
		drained(t, b)
		if n := query[int](t, pool, `SELECT count(payload) FROM pgsagaz.consumer_inbox`); n != want {
			t.Errorf("KeepPayload %v: %d payloads", keep, n)
		}
	} // TestConsumersCleanUp: a consumer drops what is old by itself
}

// processing_duration_ms came in a transaction of its own, and its histogram was never observed.
func TestSagazNeverObservedDurations(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	registry := prometheus.NewRegistry()
	b := newBroker()
	b.Publish(letters(3, 3)...)
	run(t, pool, b.Source("c"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		time.Sleep(5 * time.Millisecond)
		return writes("c")(ctx, tx, m)
	}, inbox.Config{Registry: registry})
	drained(t, b)
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.consumer_inbox WHERE processing_duration_ms >= 5`); n != 3 {
		t.Errorf("%d entries have their duration", n)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(registry, "consumer_inbox_processing_duration_seconds"); n != 1 {
		t.Errorf("%d series", n)
	}
	for _, f := range families {
		if f.GetName() == "consumer_inbox_processing_duration_seconds" {
			if h := f.GetMetric()[0].GetHistogram(); h.GetSampleCount() != 3 || h.GetSampleSum() < 0.015 {
				t.Errorf("%v", h)
			}
		}
	}
}
