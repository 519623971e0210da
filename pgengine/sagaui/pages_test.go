package sagaui_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/internal/consoletest"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
)

// browser is a person at a console, without JavaScript.
type browser struct {
	t      *testing.T
	client *http.Client
	url    string // of the console, with a slash at its end
}

func open(t *testing.T, handler http.Handler) *browser {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return &browser{t: t, client: s.Client(), url: s.URL + "/"}
}

type answer struct {
	*http.Response
	body string
}

func (b *browser) get(path string) answer {
	b.t.Helper()
	return b.send(b.request("GET", path, nil))
}

func (b *browser) request(method, path string, body io.Reader) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *browser) send(r *http.Request) answer {
	b.t.Helper()
	response, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{response, string(body)}
}

// sees fails unless the page is there and has all these words in it.
func (b *browser) sees(path string, words ...string) string {
	b.t.Helper()
	a := b.get(path)
	if a.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %s\n%s", path, a.Status, a.body)
	}
	for _, word := range words {
		if !strings.Contains(a.body, word) {
			b.t.Errorf("%s does not say %q:\n%s", path, word, a.body)
		}
	}
	if strings.Contains(a.body, "ZgotmplZ") {
		b.t.Errorf("%s: a value was filtered by the template:\n%s", path, a.body)
	}
	return a.body
}

func TestPages(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	w.CarrierDown.Store(true)
	stuck := w.Start(consoletest.Order{ID: "o-1", Cents: 990}, &pgengine.StartOptions{Key: "key-1", Tags: []string{"shop:paris"}})
	w.Becomes(stuck, pgengine.Stuck)
	trip := w.Start(consoletest.Trip{To: "Rome", Stops: 2}, nil)
	w.Awaits(trip)
	w.CarrierDown.Store(false)
	done := w.Start(consoletest.Order{ID: "o-2", Cents: 5}, nil)
	w.Becomes(done, pgengine.Completed)

	b := open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Title: "Shop"}))
	b.sees("", "1 saga waits for an operator", stuck, "worker-1", "order/2", "Of late", "Shop")
	b.sees("sagas", stuck, trip, done, "key-1", "shop:paris")
	if page := b.sees("sagas?state=stuck", stuck); strings.Contains(page, trip) {
		t.Error("the filter by state shows a saga that is not stuck")
	}
	for _, q := range []string{"name=order", "key=key-1", "tag=shop:paris", "text=no+lorry", "text=NO+LORRY&state=stuck", "state=stuck,running&name=order", "version=2", "name=order&state=stuck&key=key-1&tag=shop:paris&younger=2h"} {
		if page := b.sees("sagas?"+q, stuck); strings.Contains(page, trip) {
			t.Errorf("%s shows the trip", q)
		}
	}
	for _, q := range []string{"name=nobody", "key=k%25", "older=1h", "archived=true", "text=%25lorry", "after=" + stuck} {
		if page := b.sees("sagas?" + q); strings.Contains(page, stuck) {
			t.Errorf("%s shows the order", q)
		}
	}
	b.sees("sagas/"+stuck, "ship has given up, after 2 attempts.", "no lorry today", "check-fraud", "pivot", "key-1", "o-1", "Try again", "shelf 7")
	b.sees("sagas/"+trip, "waits for the signal confirmed", "2 completed", "each stop")
	b.sees("sagas/"+done, "parcel 12", "mailbox full")
	b.sees("definitions", "order", "trip", "stop")
	b.sees("definitions/order/2", "Fault matrix", "ship", "stuck", "Mermaid", "it is the pivot")
	b.sees("outbox", "relay-1", "Dead letters")
	b.sees("inbox", "Consumers")
	for name, kind := range map[string]string{"console.css": "text/css", "console.js": "javascript", "icon.svg": "image/svg+xml"} {
		a := b.get("assets/" + name)
		if a.StatusCode != http.StatusOK || !strings.Contains(a.Header.Get("Content-Type"), kind) || a.body == "" {
			t.Errorf("%s: %s, %s", name, a.Status, a.Header.Get("Content-Type"))
		}
	}

	for path, code := range map[string]int{
		"nowhere": 404, "sagas/1234": 404, "sagas/" + strings.Repeat("0", 8) + "-0000-7000-8000-000000000000": 404, "definitions/order/x": 404,
		"definitions/order/99": 404, "definitions/nobody/1": 404, "outbox/7": 404, "outbox/x": 404, "inbox/7": 404, "inbox/-1": 404, "assets/nothing": 404,
		"sagas?state=happy": 400, "sagas?colour=red": 400, "sagas?colour=": 400, "sagas?older=soon": 400, "sagas?after=x": 400, "sagas?limit=9999": 400, "sagas?key=%00": 400,
		"sagas/" + done + "/do/cancel": 409, "sagas/" + done + "/do/explode": 404, "outbox?before=x": 404,
	} {
		if a := b.get(path); a.StatusCode != code {
			t.Errorf("%s: %s, not %d", path, a.Status, code)
		}
	}
	if a := b.send(b.request("DELETE", "sagas", nil)); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") == "" {
		t.Errorf("DELETE: %s, allowed: %q", a.Status, a.Header.Get("Allow"))
	}
}

// TestKeysetPaging: each page follows the last of the one before, and together they are all.
func TestKeysetPaging(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	want := map[string]bool{}
	for i := range 7 {
		id := w.Start(consoletest.Order{ID: fmt.Sprint(i)}, nil)
		w.Becomes(id, pgengine.Completed)
		want[id] = true
	}
	b := open(t, sagaui.NewHandler(w.Engine, nil))
	path := "sagas?limit=3"
	for pages := 1; ; pages++ {
		page := b.sees(path)
		for id := range want {
			if strings.Contains(page, id) {
				delete(want, id)
			}
		}
		_, link, more := strings.Cut(page, `rel="next" href="`)
		if !more {
			if pages != 3 || len(want) > 0 {
				t.Errorf("%d pages, and these were on none: %v", pages, want)
			}
			return
		}
		link, _, _ = strings.Cut(link, `"`)
		path = strings.ReplaceAll(link, "&amp;", "&")
	}
}

// TestMounts: under any prefix all links lead to pages, whoever strips it.
func TestMounts(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	id := w.Start(consoletest.Order{ID: "o"}, nil)
	w.Becomes(id, pgengine.Completed)
	mux := http.NewServeMux()
	mux.Handle("/admin/sagas/", sagaui.NewHandler(w.Engine, &sagaui.Options{Prefix: "/admin/sagas"}))
	mux.Handle("/ops/", http.StripPrefix("/ops", sagaui.NewHandler(w.Engine, nil)))
	root := open(t, sagaui.NewHandler(w.Engine, nil))
	mounted := open(t, mux)
	for _, b := range []*browser{root, {t, mounted.client, mounted.url + "admin/sagas/"}, {t, mounted.client, mounted.url + "ops/"}} {
		seen, todo := map[string]bool{}, []string{b.url}
		for len(todo) > 0 && len(seen) < 60 {
			at := todo[0]
			todo = todo[1:]
			if seen[at] {
				continue
			}
			seen[at] = true
			a := b.get(strings.TrimPrefix(at, b.url))
			if a.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", at, a.Status)
			}
			for _, part := range strings.Split(a.body, `href="`)[1:] {
				link, _, _ := strings.Cut(part, `"`)
				base, _ := url.Parse(at)
				to, err := base.Parse(strings.ReplaceAll(link, "&amp;", "&"))
				if err != nil {
					t.Fatal(err)
				}
				to.Fragment = ""
				if !strings.HasPrefix(to.String(), b.url) {
					t.Errorf("%s links to %s, which is not the console's", at, to)
					continue
				}
				todo = append(todo, to.String())
			}
		}
		if len(seen) < 15 {
			t.Errorf("under %s only %d pages were found", b.url, len(seen))
		}
	}
	if a := mounted.get("ops"); a.StatusCode != http.StatusOK {
		t.Errorf("without the slash: %s", a.Status)
	}
}

// TestHeaders: every answer forbids what a page has no need of.
func TestHeaders(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	b := open(t, sagaui.NewHandler(w.Engine, nil))
	for _, path := range []string{"", "sagas", "nowhere", "api/v1/overview", "assets/console.js"} {
		a := b.get(path)
		policy := a.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'self'") || !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		if a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %v", path, a.Header)
		}
		if strings.Contains(a.body, "<style") || strings.Contains(a.body, " style=") || strings.Contains(a.body, " onclick") || strings.Contains(a.body, "<script>") {
			t.Errorf("%s has something inline", path)
		}
	}
}
