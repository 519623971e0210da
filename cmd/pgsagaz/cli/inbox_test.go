package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// mailer consumes until the test ends. While broken it gives every message up.
func mailer(t *testing.T, url string, b *memorysub.Broker, broken func() bool) {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := inbox.NewConsumer(pool, b.Source("mailer"), func(context.Context, pgx.Tx, inbox.Message) error {
		if broken() {
			return inbox.Terminal(errors.New("no such address"))
		}
		return nil
	}, inbox.Config{Name: "mailer", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		pool.Close()
	})
}

func TestInbox(t *testing.T) {
	url := sqltest.URL(t)
	h := newTheatre(t, url)
	contains(t, h.text("inbox", "status"), "nobody has consumed anything", "NO PARTITION IS THERE")
	contains(t, h.text("inbox", "dead", "list"), "no dead letters")

	var mu sync.Mutex
	broken := true
	b := memorysub.New(memorysub.Config{})
	for i := range 5 {
		b.Publish(inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Source: "shop", Topic: "orders", Type: []string{"placed", "shipped"}[i%2], Key: fmt.Sprint("k", i),
			Payload: fmt.Appendf(nil, `{"n": %d}`, i), Headers: map[string]string{"tenant": "a"}})
	}
	b.Publish(inbox.Message{ID: "binary", Payload: []byte{0, 255}})
	mailer(t, url, b, func() bool { mu.Lock(); defer mu.Unlock(); return broken })
	type dead struct {
		ID                                                int64
		Consumer, Type, Reason, Error, Topic, Key, Source string
		Redriving                                         bool
		Headers                                           map[string]string
		Payload                                           json.RawMessage
		Binary                                            []byte `json:"payload_base64"`
		MessageID                                         string `json:"message_id"`
	}
	var page struct {
		Dead []dead
		Next int64
	}
	h.eventually(func() bool { h.ok(&page, "inbox", "dead", "list"); return len(page.Dead) == 6 })
	all := page.Dead
	for _, d := range all {
		if d.Consumer != "mailer" || d.Reason != "terminal" || d.Error != "no such address" || d.Headers != nil {
			t.Errorf("%+v", d)
		}
	}
	page.Dead = nil
	h.ok(&page, "inbox", "dead", "list", "--type", "shipped", "--consumer", "mailer", "--cause", "terminal", "--limit", "1")
	if len(page.Dead) != 1 || page.Dead[0].Type != "shipped" || page.Next != page.Dead[0].ID {
		t.Errorf("%+v", page)
	}
	contains(t, h.text("inbox", "dead", "list", "--limit", "2"), "CONSUMER", "mailer", "no such address", "--after")

	var one dead
	h.ok(&one, "inbox", "dead", "show", fmt.Sprint(all[0].ID))
	if one.Headers["tenant"] != "a" || len(one.Payload) == 0 || one.Source != "shop" || one.Topic != "orders" {
		t.Errorf("%+v", one)
	}
	contains(t, h.text("inbox", "dead", "show", fmt.Sprint(all[0].ID)), "TERMINAL", "no such address", "tenant: a", `{"n":`, "inbox dead redrive")
	for _, d := range all {
		if d.MessageID == "binary" {
			one = dead{}
			h.ok(&one, "inbox", "dead", "show", fmt.Sprint(d.ID))
			if string(one.Binary) != "\x00\xff" || one.Payload != nil {
				t.Errorf("%+v", one)
			}
			contains(t, h.text("inbox", "dead", "show", fmt.Sprint(d.ID)), "2 bytes")
		}
	}

	var done struct {
		Command  string
		IDs, Not []int64
	}
	h.ok(&done, "inbox", "dead", "drop", fmt.Sprint(all[0].ID))
	if done.Command != "drop" || len(done.IDs) != 1 {
		t.Errorf("%+v", done)
	}
	h.exits(exitFailed, &done, "inbox", "dead", "drop", fmt.Sprint(all[0].ID))
	if len(done.Not) != 1 {
		t.Errorf("%+v", done)
	}
	var s inbox.State
	h.ok(&s, "inbox", "status")
	if len(s.Consumers) != 1 || s.Consumers[0].Dead != 5 || s.Consumers[0].LastHour != 6 || s.Consumers[0].SeenAt == nil || s.Late != 0 {
		t.Errorf("%+v", s)
	}
	contains(t, h.text("inbox", "status"), "CONSUMER", "mailer", "partitions are there for", "are refused")

	mu.Lock()
	broken = false
	mu.Unlock()
	contains(t, h.text("inbox", "dead", "redrive", fmt.Sprint(all[1].ID)), "1 dead letters")
	h.ok(&done, "inbox", "dead", "redrive", "--all", "--type", "shipped")
	h.eventually(func() bool {
		return !strings.Contains(h.run("inbox", "dead", "list", "--type", "shipped").stdout, "mailer")
	})
	h.ok(&done, "inbox", "dead", "redrive", "--all")
	h.eventually(func() bool { h.ok(&page, "inbox", "dead", "list"); return len(page.Dead) == 0 })

	var cleaned struct {
		Busy    bool
		Dropped []string
		Made    int
		Seconds float64
	}
	h.ok(&cleaned, "inbox", "cleanup", "--retention", "480h")
	if cleaned.Busy || len(cleaned.Dropped) != 0 || cleaned.Seconds <= 0 {
		t.Errorf("%+v", cleaned)
	}
	contains(t, h.text("inbox", "cleanup"), "dropped 0 partitions", "are refused")
	if r := h.run("inbox", "cleanup", "--retention", "24h"); r.code != exitFailed || !strings.Contains(r.stderr, "mailer") {
		t.Errorf("shorter than the horizon: %+v", r)
	}
}

func TestInboxMistakes(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	for args, c := range map[string]struct {
		code int
		said string
	}{
		"inbox nonsense":                   {exitUsage, "nonsense"},
		"inbox dead show":                  {exitUsage, "1 arg"},
		"inbox dead show x":                {exitUsage, `"x" is not the id`},
		"inbox dead show 17":               {exitFailed, "no such dead letter: 17"},
		"inbox dead redrive":               {exitUsage, "--all"},
		"inbox dead redrive 1 --all":       {exitUsage, "not both"},
		"inbox dead drop -- -1":            {exitUsage, `"-1" is not the id`},
		"inbox dead drop 1 --consumer c":   {exitUsage, "go with --all"},
		"inbox dead list --limit -1":       {exitUsage, "--limit"},
		"inbox cleanup --retention -1s":    {exitUsage, "--retention"},
		"inbox cleanup --retention a week": {exitUsage, "a"},
		"bench inbox --rows -1":            {exitUsage, "--rows"},
	} {
		r := h.run(strings.Fields(args)...)
		if r.code != c.code || r.stdout != "" {
			t.Errorf("%s: %+v", args, r)
		}
		contains(t, r.stderr, "pgsagaz: ", c.said)
	}
}

func TestBenchInbox(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	var r struct {
		Duplicate struct{ Ratio float64 }
		Effect    []struct{ Concurrency int }
		Batches   struct{ Ratio float64 }
		Big       []struct{ Ratio float64 }
		Cleanup   struct{ Seconds float64 }
	}
	h.ok(&r, "bench", "inbox", "--duration", "100ms", "--rounds", "1", "--concurrency", "2", "--rows", "3000")
	if r.Duplicate.Ratio <= 0 || len(r.Effect) != 1 || r.Effect[0].Concurrency != 2 || r.Batches.Ratio <= 0 || len(r.Big) != 1 || r.Cleanup.Seconds <= 0 {
		t.Errorf("%+v", r)
	}
	if r := h.run("bench", "inbox"); r.code != exitFailed || !strings.Contains(r.stderr, "has been used") {
		t.Errorf("a second time on the same database: %+v", r)
	}
}
