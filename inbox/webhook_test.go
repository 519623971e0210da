package inbox_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
)

func byHeader(r *http.Request, body []byte) (inbox.Message, error) {
	if bytes.HasPrefix(body, []byte("bad")) {
		return inbox.Message{}, errors.New("this is bad")
	}
	return inbox.Message{ID: r.Header.Get("X-Delivery"), Source: "hub", Type: r.Header.Get("X-Event"), Key: r.Header.Get("X-Key"), Payload: body}, nil
}

// send sends a request to the webhook and returns the status.
func send(t testing.TB, url, id, body string, header http.Header) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	r.Header.Set("X-Delivery", id)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func sign(secret, body string) http.Header {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return http.Header{"X-Signature": {"sha256=" + hex.EncodeToString(mac.Sum(nil))}}
}

func newWebhook(t testing.TB, cfg inbox.WebhookConfig) (*inbox.Webhook, string) {
	t.Helper()
	cfg.Message = byHeader
	w, err := inbox.NewWebhook(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	return w, server.URL
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	w, url := newWebhook(t, inbox.WebhookConfig{Verify: inbox.HMAC("X-Signature", []byte("old"), []byte("secret")), MaxBody: 100, Timeout: 5 * time.Second})
	var fails atomic.Int64
	fails.Store(3)
	var last atomic.Value
	run(t, pool, w, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		last.Store(m)
		switch {
		case m.ID == "flaky" && fails.Add(-1) >= 0:
			return errors.New("not yet")
		case m.ID == "hopeless":
			return inbox.Terminal(errors.New("no"))
		}
		return writes("c")(ctx, tx, m)
	}, inbox.Config{})
	for _, c := range []struct {
		id, body string
		header   http.Header
		want     int
	}{
		{"1", "x", sign("secret", "x"), 200},
		{"1", "x", sign("secret", "x"), 200}, // a duplicate
		{"2", "x", sign("old", "x"), 200},
		{"3", "x", sign("wrong", "x"), 401},
		{"3", "y", sign("secret", "x"), 401},
		{"3", "x", nil, 401},
		{"3", "x", http.Header{"X-Signature": {"sha256=zz"}}, 401},
		{"", "x", sign("secret", "x"), 400},
		{"3", "bad", sign("secret", "bad"), 400},
		{"3", strings.Repeat("x", 101), sign("secret", strings.Repeat("x", 101)), 413},
		{"flaky", "x", sign("secret", "x"), 200},    // after three attempts
		{"hopeless", "x", sign("secret", "x"), 200}, // it lies among the dead letters
	} {
		if got := send(t, url, c.id, c.body, c.header); got != c.want {
			t.Errorf("%q %.20q: %d, want %d", c.id, c.body, got, c.want)
		}
	}
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 405 || response.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d", response.StatusCode)
	}
	header := sign("secret", "x")
	header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	send(t, url, "traced", "x", header)
	if m := last.Load().(inbox.Message); m.TraceParent == "" || string(m.Payload) != "x" {
		t.Errorf("%+v", m)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 4 {
		t.Errorf("%d effects; want those of 1, 2, flaky and traced", n)
	}
	if dead := deadLetters(t, pool); len(dead) != 1 || dead[0].Message.ID != "hopeless" {
		t.Errorf("%+v", dead)
	}
	if _, err := inbox.NewWebhook(inbox.WebhookConfig{}); err == nil {
		t.Error("a webhook without Message")
	}
}

// TestWebhookTenAtOnce: ten deliveries of one event arrive together, and it takes effect once.
func TestWebhookTenAtOnce(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	w1, url1 := newWebhook(t, inbox.WebhookConfig{})
	w2, url2 := newWebhook(t, inbox.WebhookConfig{}) // another process
	run(t, pool, w1, writes("c"), inbox.Config{})
	run(t, pool, w2, writes("c"), inbox.Config{})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if got := send(t, []string{url1, url2}[i%2], "evt-1", "x", nil); got != 200 {
				t.Errorf("%d", got)
			}
		})
	}
	wg.Wait()
	if n := effects(t, pool, "c", "evt-1"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// TestWebhookSendsAgain: a sender that cannot be told that its event took effect is to send it again.
func TestWebhookSendsAgain(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	w, url := newWebhook(t, inbox.WebhookConfig{Timeout: 50 * time.Millisecond, MaxWaiting: 2})
	for i := range 3 { // nobody consumes; the third does not even wait
		if got := send(t, url, fmt.Sprint(i), "x", nil); got != 503 {
			t.Errorf("%d", got)
		}
	}
	var open atomic.Bool
	stop := run(t, pool, w, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if !open.Load() {
			return errors.New("closed")
		}
		return writes("c")(ctx, tx, m)
	}, inbox.Config{MaxAttempts: 1e6})
	eventually(t, "there is room", func() bool { lag, _ := w.Lag(t.Context()); return lag == 0 })
	if got := send(t, url, "late", "x", nil); got != 503 {
		t.Errorf("%d", got)
	}
	open.Store(true)
	eventually(t, "what was not answered took effect all the same", func() bool { return query[int](t, pool, `SELECT count(*) FROM ledger`) == 3 })
	if got := send(t, url, "late", "x", nil); got != 200 || effects(t, pool, "c", "late") != 1 {
		t.Errorf("the duplicate: %d", got)
	}
	stop()
	begun := time.Now()
	if got := send(t, url, "after the end", "x", nil); got != 503 || time.Since(begun) > 5*time.Second {
		t.Errorf("%d", got)
	}
}

// TestWebhookIsASource, as far as one can be that cannot deliver again by itself.
func TestWebhookIsASource(t *testing.T) {
	w, url := newWebhook(t, inbox.WebhookConfig{Timeout: 20 * time.Second})
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			if got, want := send(t, url, fmt.Sprint(i), "x", nil), map[bool]int{true: 200, false: 503}[i%2 == 0]; got != want {
				t.Errorf("%d: %d, want %d", i, got, want)
			}
		})
	}
	var source inbox.Source = w
	seen := 0
	for seen < 5 {
		some, err := source.Fetch(t.Context(), 2)
		if err != nil || len(some) == 0 || len(some) > 2 {
			t.Fatal(len(some), err)
		}
		seen += len(some)
		for _, d := range some {
			settle := source.Ack
			if d.Message.ID == "1" || d.Message.ID == "3" {
				settle = source.Release
			}
			if err := settle(t.Context(), []inbox.Delivery{d, d}); err != nil {
				t.Error(err)
			}
		}
	}
	wg.Wait()
	if lag, err := w.Lag(t.Context()); lag != 0 || err != nil {
		t.Errorf("%d, %v", lag, err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
}
