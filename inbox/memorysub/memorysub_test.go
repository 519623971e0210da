package memorysub_test

import (
	"testing"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/inboxtest"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
)

func TestSource(t *testing.T) {
	inboxtest.TestSource(t, func(*testing.T) inboxtest.Harness {
		b := memorysub.New(memorysub.Config{})
		return inboxtest.Harness{
			Open: func(testing.TB) inbox.Source { return b.Source("group") },
			Send: func(_ testing.TB, messages ...inbox.Message) { b.Publish(messages...) },
			Kill: func(_ testing.TB, s inbox.Source) { _ = s.Close() },
			Cut:  func(testing.TB) { b.Rebalance("group") },
		}
	})
}

// TestRebalance: what was delivered and not acked goes to the new owner, the old one hears of it, and its
// ack is passed over.
func TestRebalance(t *testing.T) {
	b := memorysub.New(memorysub.Config{Partitions: 1})
	first := b.Source("group")
	b.Publish(inbox.Message{ID: "1", Key: "k"}, inbox.Message{ID: "2", Key: "k"})
	old, err := first.Fetch(t.Context(), 10)
	if err != nil || len(old) != 2 {
		t.Fatal(old, err)
	}
	second := b.Source("group")
	for range 2 { // whoever has it: after two turns both have lost it once
		b.Rebalance("group")
	}
	<-old[0].Revoked
	if err := first.Ack(t.Context(), old); err != nil || b.Waiting("group") != 2 {
		t.Errorf("%v, %d wait; an ack of an earlier generation counts for nothing", err, b.Waiting("group"))
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := second.Fetch(t.Context(), 10)
	if err != nil || len(again) != 2 || again[0].Message.ID != "1" || again[0].Redelivered == 0 {
		t.Errorf("%+v, %v", again, err)
	}
	if err := second.Ack(t.Context(), again); err != nil || b.Waiting("group") != 0 {
		t.Errorf("%v, %d wait", err, b.Waiting("group"))
	}
}
