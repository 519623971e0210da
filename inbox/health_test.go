package inbox_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
)

// TestReady: a consumer says whether it should be counted on: it runs, and can fetch.
func TestReady(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	var down atomic.Bool
	b := memorysub.New(memorysub.Config{Fault: func(op string) error {
		if down.Load() {
			return errors.New("no broker")
		}
		return nil
	}})
	c, err := inbox.NewConsumer(pool, b.Source("c"), writes("c"), inbox.Config{Name: "c", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if c.Ready() == nil {
		t.Error("it is ready before it runs")
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	until := func(what string, f func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it never happened: " + what)
			}
		}
	}
	until("it is ready", func() bool { return c.Ready() == nil })
	down.Store(true)
	b.Publish(letters(1, 1)...) // wakes the fetch that waits
	b.Publish(letters(1, 1)...)
	until("it can't fetch", func() bool {
		err := c.Ready()
		return err != nil && strings.Contains(err.Error(), "no broker")
	})
	down.Store(false)
	b.Publish(letters(1, 1)...)
	until("it is ready again", func() bool { return c.Ready() == nil })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if c.Ready() == nil {
		t.Error("it is ready after its end")
	}
}
