package outbox_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestReady: a relay says whether it should be counted on, and whether its broker takes events.
func TestReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pool = sqltest.New(t)
	var down atomic.Bool
	broker := &outboxtest.Faulty{Publisher: w.broker, Next: func([]outbox.Event) outboxtest.Fault {
		if down.Load() {
			return outboxtest.FailBefore
		}
		return outboxtest.None
	}}
	r, err := outbox.NewRelay(w.pool, broker, outbox.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "no session") {
		t.Errorf("before it runs: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	w.until("it is ready", func() bool { return r.Ready() == nil && r.BrokerReady() == nil })

	down.Store(true)
	w.publish(message("k", 1))
	w.until("the broker is not ready", func() bool { return r.BrokerReady() != nil })
	time.Sleep(time.Millisecond)
	if err := r.BrokerReady(); !strings.Contains(err.Error(), "has not taken events for") {
		t.Error(err)
	}
	if err := r.Ready(); err != nil {
		t.Errorf("the relay itself: %v", err)
	}
	down.Store(false)
	w.until("the broker is ready again", func() bool { return r.BrokerReady() == nil })

	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if r.Ready() == nil {
		t.Error("it is ready after its end")
	}
}
