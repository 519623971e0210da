package sagaui_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/internal/consoletest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
	"github.com/pgsagaz/pgsagaz/sql"
)

var hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// form opens the page of an action, and gives what it would send.
func (b *browser) form(path string, words ...string) url.Values {
	b.t.Helper()
	if b.client.Jar == nil {
		b.client.Jar, _ = cookiejar.New(nil)
	}
	v := url.Values{}
	for _, field := range hidden.FindAllStringSubmatch(b.sees(path, words...), -1) {
		v.Set(field[1], field[2])
	}
	return v
}

// post sends a form as the page itself does, and follows where that leads.
func (b *browser) post(path string, v url.Values) answer {
	b.t.Helper()
	r := b.request("POST", path, strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.send(r)
}

func (b *browser) act(path, reason string, words ...string) answer {
	b.t.Helper()
	v := b.form(path, words...)
	v.Set("reason", reason)
	return b.post(path, v)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestActions(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	b := open(t, http.StripPrefix("", sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Actor: func(*http.Request) string { return "ann" }})))

	// Retry.
	w.CarrierDown.Store(true)
	order := w.Start(consoletest.Order{ID: "o"}, nil)
	w.Becomes(order, pgengine.Stuck)
	w.CarrierDown.Store(false)
	a := b.act("sagas/"+order+"/do/retry", "the lorry is back", "ship is tried again")
	if a.StatusCode != http.StatusOK || a.Request.URL.Path != "/sagas/"+order || !strings.Contains(a.body, "Asked the saga to try again.") {
		t.Errorf("retry: %s at %s", a.Status, a.Request.URL)
	}
	w.Becomes(order, pgengine.Completed)

	// Signal, with a payload that does not fit and one that does.
	trip := w.Start(consoletest.Trip{To: "Rome", Stops: 1}, nil)
	w.Awaits(trip)
	v := b.form("sagas/"+trip+"/do/signal", "confirm awaits it now")
	v.Set("reason", "she called")
	v.Set("signal", "confirmed")
	v.Set("payload", "{")
	if a := b.post("sagas/"+trip+"/do/signal", v); a.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(a.body, "is not JSON") {
		t.Errorf("a payload that is none: %s", a.Status)
	}
	v.Set("payload", `{"by": "ann"}`)
	b.post("sagas/"+trip+"/do/signal", v)
	w.Becomes(trip, pgengine.Completed)

	// Cancel; the undo gets stuck; resolve it by hand.
	w.AirlineDown.Store(true)
	trip = w.Start(consoletest.Trip{To: "Oslo", Stops: 2}, nil)
	w.Awaits(trip)
	b.act("sagas/"+trip+"/do/cancel", "no holiday", "Undone first:", "flight", "It ends compensated.")
	s := w.Becomes(trip, pgengine.Stuck)
	if s.Cause == nil || s.Cause.Reason != "no holiday" || len(s.Audit) != 1 || s.Audit[0].Actor != "ann" || s.Audit[0].Answer != "obeyed" {
		t.Errorf("the cause is %+v, the audit %+v", s.Cause, s.Audit)
	}
	v = b.form("sagas/"+trip+"/do/resolve?step=flight&outcome=done", "flight done: it is undone, by hand")
	v.Set("step", "flight")
	v.Set("outcome", "failed")
	v.Set("reason", "paid back in cash")
	if a := b.post("sagas/"+trip+"/do/resolve", v); a.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(a.body, "an undo is done or skipped") {
		t.Errorf("an outcome that can't be: %s %s", a.Status, a.body)
	}
	v.Set("outcome", "done")
	b.post("sagas/"+trip+"/do/resolve", v)
	w.Becomes(trip, pgengine.Compensated)

	b.sees("sagas/"+trip, "Audit", "paid back in cash", "ann")

	// Restart it, pause that, and resume it; skip the undo that is stuck again.
	v = b.form("sagas/"+trip+"/do/restart", "A new saga over the same input", "tickets")
	v.Set("reason", "she wants to, after all")
	v.Set("step", "tickets")
	if a := b.post("sagas/"+trip+"/do/restart", v); a.StatusCode != 409 || !strings.Contains(a.body, "was undone") {
		t.Errorf("restart from where nothing stands: %s", a.Status)
	}
	v.Set("step", "flight")
	b.post("sagas/"+trip+"/do/restart", v)
	s, err := w.Engine.Get(t.Context(), trip)
	if err != nil || s.RestartedAs == "" {
		t.Fatalf("it was not restarted: %v", err)
	}
	b.sees("sagas/"+trip, s.RestartedAs)
	trip = s.RestartedAs
	w.Awaits(trip)
	b.act("sagas/"+trip+"/do/pause", "let me think", "nothing else begins")
	w.Until(trip, "paused", func(s pgengine.Status) bool { return s.PausedAt != nil })
	b.sees("sagas?state=running", trip, "paused")
	b.act("sagas/"+trip+"/do/resume", "no", "goes on where it stands")
	w.Until(trip, "resumed", func(s pgengine.Status) bool { return s.PausedAt == nil })
	b.act("sagas/"+trip+"/do/cancel", "no")
	w.Becomes(trip, pgengine.Stuck)
	v = b.form("sagas/"+trip+"/do/skip", "flight: its undo is left out")
	v.Set("step", "flight")
	v.Set("reason", "the airline is broke")
	b.post("sagas/"+trip+"/do/skip", v)
	w.Becomes(trip, pgengine.Compensated)

	// Abandon another.
	trip = w.Start(consoletest.Trip{To: "Bern"}, nil)
	w.Awaits(trip)
	b.act("sagas/"+trip+"/do/abandon", "test data", "Not undone: flight")
	if s := w.Becomes(trip, pgengine.Compensated); s.Cause == nil || !s.Cause.NoUndo {
		t.Errorf("abandoned: %+v", s.Cause)
	}

	// Redrive and drop what the broker has rejected.
	w.BrokerDown.Store(true)
	w.Start(consoletest.Order{ID: "a"}, nil)
	letter := w.DeadLetter()
	path := "outbox/" + json.Number(jsonOf(letter)).String()
	b.sees(path, "not known here", "parcel 12", "orders.shipped")
	w.BrokerDown.Store(false)
	if a := b.act(path+"/do/redrive", "the topic is there", "goes back to the relay"); a.Request.URL.Path != "/outbox" || !strings.Contains(a.body, "another chance") {
		t.Errorf("redrive: %s at %s", a.Status, a.Request.URL)
	}
	if a := b.get(path + "/do/redrive"); a.StatusCode != http.StatusNotFound {
		t.Errorf("once more: %s", a.Status)
	}
	w.BrokerDown.Store(true)
	w.Start(consoletest.Order{ID: "b"}, nil)
	path = "outbox/" + jsonOf(w.DeadLetter())
	b.act(path+"/do/drop", "never mind", "is forgotten")
	if all, err := outbox.DeadLetters(t.Context(), w.Pool, outbox.DeadFilter{}); err != nil || len(all) != 0 {
		t.Errorf("%d dead letters are left, %v", len(all), err)
	}
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestInboxLetters: what a consumer has given up is redriven, and dropped.
func TestInboxLetters(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	_, err := w.Pool.Exec(t.Context(), `
		INSERT INTO pgsagaz.inbox_dead (consumer_name, event_id, message_id, source, attempt, source_topic, key, event_type, payload, headers, traceparent, reason, error, attempts, first_at, died_at)
		SELECT 'orders', pgsagaz.inbox_event_id('', 'e' || n), 'e' || n, '', '', 'carts', 'k', 'cart.sent', '{"n": 1}', '{"who": "me"}', '', 'attempts', 'no such table', 5, now(), now()
		FROM generate_series(1, 2) n`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Pool.Exec(t.Context(), `INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, foreign_id)
		SELECT event_id, consumer_name, source_topic, event_type, message_id FROM pgsagaz.inbox_dead`)
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))
	b.sees("inbox", "orders", "no such table", "cart.sent")
	b.sees("", "2 dead letters lie there")
	ids := regexp.MustCompile(`href="inbox/(\d+)"`).FindAllStringSubmatch(b.sees("inbox?consumer=orders"), -1)
	if len(ids) != 2 {
		t.Fatalf("%v", ids)
	}
	one, two := "inbox/"+ids[0][1], "inbox/"+ids[1][1]
	b.sees(one, "no such table", "&#34;n&#34;: 1", "who")
	b.act(one+"/do/redrive", "the table is there", "handles the message again")
	b.sees(one, "redriving")
	if a := b.get(one + "/do/redrive"); a.StatusCode != http.StatusConflict || !strings.Contains(a.body, "being redriven") {
		t.Errorf("once more: %s", a.Status)
	}
	b.act(two+"/do/drop", "never mind")
	if a := b.get(two); a.StatusCode != http.StatusNotFound {
		t.Errorf("dropped: %s", a.Status)
	}
}

// TestRefusals: what was not asked for by this console's own page, may not be done, or comes too late, is not done.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	trip := w.Start(consoletest.Trip{To: "Rome"}, nil)
	w.Awaits(trip)
	path := "sagas/" + trip + "/do/cancel"
	b := open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))
	untouched := func(what string) {
		t.Helper()
		if s, err := w.Engine.Get(t.Context(), trip); err != nil || s.State != pgengine.Running {
			t.Errorf("%s: the saga is %s, %v", what, s.State, err)
		}
	}
	refused := func(what string, a answer, code int, says string) {
		t.Helper()
		if a.StatusCode != code || !strings.Contains(a.body, says) {
			t.Errorf("%s: %s, not %d with %q:\n%s", what, a.Status, code, says, a.body)
		}
		untouched(what)
	}
	good := b.form(path)
	good.Set("reason", "because")
	with := func(name, value string) url.Values {
		v := url.Values{}
		for k := range good {
			v.Set(k, good.Get(k))
		}
		if v.Set(name, value); value == "" {
			v.Del(name)
		}
		return v
	}
	refused("no token", b.post(path, with("token", "")), 403, "nothing was done")
	refused("a wrong token", b.post(path, with("token", "AAAAAAAAAAAAAAAAAAAAAAAAAA")), 403, "nothing was done")
	refused("no reason", b.post(path, with("reason", " ")), 422, "Give a reason")
	refused("a long reason", b.post(path, with("reason", strings.Repeat("x", 3000))), 422, "longer than")
	refused("nothing seen", b.post(path, with("seen", "")), 409, "moved on")
	refused("something else seen", b.post(path, with("seen", "0123")), 409, "moved on")
	refused("a forged action", b.post("sagas/"+trip+"/do/destroy", good), 404, "no such action")
	refused("an action of something else", b.post("sagas/"+trip+"/do/redrive", good), 404, "no such action")
	refused("3 MB", b.post(path, with("reason", strings.Repeat("x", 3<<20))), 400, "can&#39;t be read")
	jar := b.client.Jar
	b.client.Jar = nil
	refused("no cookie", b.post(path, good), 403, "nothing was done")
	b.client.Jar = jar
	r := b.request("POST", path, strings.NewReader(good.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	refused("another site", b.send(r), 403, "another site")
	r = b.request("POST", path, strings.NewReader(good.Encode()))
	r.Header.Set("Origin", "https://evil.example")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	refused("another origin", b.send(r), 403, "another site")
	refused("by GET", b.get(path+"?reason=x&token="+good.Get("token")), 200, "What will happen")
	r = b.request("POST", "api/v1/sagas/"+trip+"/actions/cancel", strings.NewReader(`{"reason": "x"}`))
	r.Header.Set("Content-Type", "text/plain")
	refused("JSON that does not say so", b.send(r), 415, "Content-Type")

	// It gets stuck between the page and the form.
	w.AirlineDown.Store(true)
	b.post(path, good)
	w.Becomes(trip, pgengine.Stuck)
	if a := b.post(path, good); a.StatusCode != 409 || !strings.Contains(a.body, "It is stuck.") {
		t.Errorf("cancelled twice: %s\n%s", a.Status, a.body)
	}
	retry := b.form("sagas/" + trip + "/do/retry")
	retry.Set("reason", "first")
	was, err := w.Engine.Get(t.Context(), trip)
	if err != nil {
		t.Fatal(err)
	}
	b.post("sagas/"+trip+"/do/retry", retry)
	w.Until(trip, "stuck again", func(s pgengine.Status) bool { return s.State == pgengine.Stuck && len(s.Attempts) > len(was.Attempts) })
	if a := b.post("sagas/"+trip+"/do/retry", retry); a.StatusCode != 409 || !strings.Contains(a.body, "moved on") {
		t.Errorf("the form of a while ago: %s", a.Status)
	}
}

// TestAuthorize: nothing but looking without it; and it is asked for each thing by its name.
func TestAuthorize(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	trip := w.Start(consoletest.Trip{To: "a-secret-place"}, nil)
	w.Awaits(trip)

	b := open(t, sagaui.NewHandler(w.Engine, nil))
	for _, path := range []string{"sagas/" + trip, "api/v1/sagas/" + trip} {
		if page := b.sees(path); strings.Contains(page, "a-secret-place") || strings.Contains(page, "/do/") {
			t.Errorf("read only: %s shows a payload, or an action:\n%s", path, page)
		}
	}
	b.sees("sagas/"+trip, "Withheld", "read only")
	if a := b.get("sagas/" + trip + "/do/cancel"); a.StatusCode != http.StatusForbidden {
		t.Errorf("read only: %s", a.Status)
	}

	asked := map[string]bool{}
	may := map[string]bool{sagaui.View: true, "cancel": true}
	b = open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Logger: quiet, Authorize: func(_ *http.Request, action string, s *pgengine.Status) error {
		if s != nil && s.ID != trip {
			t.Errorf("asked for %s", s.ID)
		}
		if asked[action] = true; may[action] {
			return nil
		}
		return errors.New("ask the boss")
	}}))
	page := b.sees("sagas/"+trip, "do/cancel", "Withheld")
	if strings.Contains(page, "do/signal") || strings.Contains(page, "a-secret-place") || !asked["signal"] || !asked[sagaui.Payloads] {
		t.Errorf("asked for %v:\n%s", asked, page)
	}
	if a := b.get("sagas/" + trip + "/do/signal"); a.StatusCode != 403 || !strings.Contains(a.body, "ask the boss") {
		t.Errorf("signal: %s", a.Status)
	}
	may[sagaui.Payloads] = true
	b.sees("sagas/"+trip, "a-secret-place")
	may[sagaui.View] = false
	for _, path := range []string{"", "sagas/" + trip, "outbox", "api/v1/overview"} {
		if a := b.get(path); a.StatusCode != 403 || strings.Contains(a.body, trip) {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	for _, name := range sagaui.Actions() {
		if !strings.Contains("retry resolve signal cancel redrive drop pause resume skip abandon restart", name) {
			t.Errorf("an action that this test does not know: %s", name)
		}
	}
}

// TestSchedules: they are shown, paused and resumed.
func TestSchedules(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	err := sql.InTx(t.Context(), w.Pool, func(tx pgx.Tx) error {
		return w.Engine.Schedule(t.Context(), tx, consoletest.Stop{At: 4}, pgengine.Schedule{Name: "nightly/stops", Cron: "0 3 * * *", Zone: "Europe/Berlin"})
	})
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))
	one := "schedules/nightly%2Fstops"
	b.sees("schedules", "nightly/stops", "0 3 * * *", "Europe/Berlin", one)
	b.sees(one, "Coming", "&#34;at&#34;: 4", "nightly%2Fstops/do/pause")
	if a := b.act(one+"/do/pause", "the tour is off", "starts nothing"); a.Request.URL.Path != "/schedules" || !strings.Contains(a.body, "The schedule is paused.") {
		t.Errorf("%s at %s", a.Status, a.Request.URL)
	}
	b.sees(one, "paused", "do/resume")
	b.act(one+"/do/resume", "it is on again")
	b.call("GET", "api/v1/schedules", "", 200, nil)
	b.call("GET", "api/v1/"+one, "", 200, nil)
	b.call("GET", "api/v1/schedules/none", "", 404, nil)
}
