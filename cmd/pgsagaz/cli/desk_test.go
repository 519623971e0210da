package cli

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// served is a theatre, and the address of a console of its database, under a prefix, that takes the token abc.
func served(t *testing.T, options sagaui.Options) (*theatre, *pgxpool.Pool, string) {
	t.Helper()
	pool := sqltest.New(t)
	engine, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	options.Prefix, options.Logger = "/ops", engine.Logger()
	mux := http.NewServeMux()
	mux.Handle("/ops/", guard(sagaui.NewHandler(engine, &options), "abc", ""))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	h := newTheatre(t, pool.Config().ConnString())
	h.env["PGSAGAZ_ACTOR"] = "ann"
	return h, pool, server.URL + "/ops/"
}

// afar is a theatre of the same sagas that knows only the console.
func (h *theatre) afar(server string) *theatre {
	return &theatre{t: h.t, env: map[string]string{"PGSAGAZ_SERVER": server, "PGSAGAZ_SERVER_TOKEN": "abc", "PGSAGAZ_ACTOR": "ann"}, held: h.held}
}

// What differs from run to run, beside ids.
var (
	aMoment   = regexp.MustCompile(`(\d{4}-\d\d-\d\d[ T])?\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:\d\d|Z)?`)
	aDuration = regexp.MustCompile(`-?\b(\d+(\.\d+)?(µs|ms|s|m|h|d))+\b`)
	aSize     = regexp.MustCompile(`\d+(\.\d+)? MB`)
	anyBlanks = regexp.MustCompile(`[ -]{2,}|\s+`)
)

func alike(s string) string {
	s = anID.ReplaceAllString(s, "ID")
	s = aMoment.ReplaceAllString(s, "TIME")
	s = aDuration.ReplaceAllString(s, "SPAN")
	s = aSize.ReplaceAllString(s, "SIZE")
	return strings.TrimSpace(anyBlanks.ReplaceAllString(s, " "))
}

// TestDesks: the same commands say the same, whether they ask the database or a console.
func TestDesks(t *testing.T) {
	h, pool, server := served(t, sagaui.Options{Authorize: sagaui.AllowAll})
	h.work("--worker-id", "w1")
	near, far := h.asks(pool, h), h.asks(pool, h.afar(server))
	for i := range min(len(near), len(far)) {
		if near[i] != far[i] {
			t.Errorf("the database answers\n%s\nand the console\n%s", near[i], far[i])
		}
	}
	if len(near) != len(far) || len(near) < 50 {
		t.Errorf("%d answers and %d", len(near), len(far))
	}
}

// asks goes with sagas, schedules and messages through what people do with them, and gives what each command has answered.
func (h *theatre) asks(pool *pgxpool.Pool, at *theatre) (answers []string) {
	t := h.t
	t.Helper()
	ask := func(code int, args ...string) string {
		t.Helper()
		r := at.run(args...)
		if r.code != code {
			t.Fatalf("pgsagaz %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
		}
		answers = append(answers, alike(fmt.Sprint(strings.Join(args, " "), "\n", r.stdout, r.stderr)))
		return r.stdout
	}
	exec := func(statement string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	because := []string{"--reason", "because"}
	with := func(args ...string) []string { return append(args, because...) }
	key := fmt.Sprintf("key-%p", at)
	defer func() { // it differs, too
		for i := range answers {
			answers[i] = strings.ReplaceAll(answers[i], key, "KEY")
		}
	}()

	var s started
	h.ok(&s, "saga", "start", "tour", "--input", `{"lost":true}`, "--key", key, "--tag", "red")
	h.shows(s.ID, "step approve awaits the signal approval", "policy 9")
	ask(exitOK, "saga", "show", s.ID)
	ask(exitFailed, with("saga", "signal", s.ID, "applause")...)
	ask(exitOK, with("saga", "pause", s.ID)...)
	ask(exitOK, with("saga", "pause", s.ID)...)
	contains(t, ask(exitOK, "saga", "list", "--paused", "--key", key), s.ID)
	ask(exitOK, "saga", "list", "--paused", "--archived")
	ask(exitOK, with("saga", "resume", s.ID)...)
	ask(exitOK, with("saga", "signal", "tour="+key, "approval", `{"by":"Ada"}`, "--key", "mail-1")...)
	ask(exitFailed, with("saga", "signal", "tour=nobody", "approval", `{}`)...)
	h.shows(s.ID, "STUCK", "step sign has given up")
	contains(t, ask(exitOK, "saga", "show", s.ID), "the line went dead", `{"by":"Ada"}`, "saga retry")
	ask(exitFailed, with("saga", "resolve", s.ID, "sign", "skipped")...)
	ask(exitFailed, with("saga", "resolve", s.ID, "sign", "done")...)
	ask(exitFailed, with("saga", "resolve", s.ID, "seats", "done", "--result", "1")...)
	ask(exitOK, with("saga", "cancel", s.ID)...) // it turns back already, if it can
	ask(exitFailed, with("saga", "retry", s.ID, "venue")...)
	contains(t, ask(exitOK, with("saga", "resolve", s.ID, "sign", "done", "--result", `"by phone"`, "--wait")...), "COMPLETED", `output   "by phone"`)
	ask(exitOK, "saga", "history", s.ID)
	ask(exitOK, "saga", "watch", s.ID)
	ask(exitOK, "saga", "graph", s.ID)
	ask(exitOK, "saga", "list", "--key", key, "--tag", "red", "--name", "tour", "--state", "completed", "--younger-than", "1h")
	ask(exitOK, "saga", "list", "--key", key, "--older-than", "1h")
	ask(exitOK, "saga", "list", "--name", "tour", "--limit", "1")
	ask(exitOK, "saga", "list", "--archived", "--limit", "0")
	for _, verb := range [][]string{{"cancel"}, {"cancel", "--no-undo"}, {"pause"}, {"resume"}, {"retry"}} {
		ask(exitFailed, with(append([]string{"saga", verb[0], s.ID}, verb[1:]...)...)...)
	}
	ask(exitFailed, with("saga", "skip", s.ID, "posters")...)
	ask(exitFailed, with("saga", "restart", s.ID, "--from", "nowhere")...)

	made := anID.FindString(ask(exitOK, with("saga", "restart", s.ID, "--from", "approve")...))
	h.shows(made, "awaits the signal approval")
	contains(t, ask(exitFailed, with("saga", "cancel", made, "--wait")...), "STUCK", "the undo of insurance is an operator's")
	ask(exitFailed, with("saga", "resolve", made, "insurance", "failed")...)
	contains(t, ask(exitOK, with("saga", "skip", made, "insurance", "--wait")...), "COMPENSATED", "because")
	ask(exitOK, "saga", "restart", s.ID, "--from", "approve", "--reason", "again") // it was
	if audit := h.text("saga", "show", made); !strings.Contains(audit, " ann ") {
		t.Errorf("nobody knows who it was:\n%s", audit)
	}

	ask(exitOK, "saga", "plan", "tour")
	ask(exitOK, "saga", "graph", "tour")
	ask(exitFailed, "saga", "plan", "tour", "--version", "9")
	ask(exitOK, "saga", "versions", "tour")
	ask(exitFailed, "saga", "versions", "nobody")
	nobody := "01900000-0000-7000-8000-000000000001"
	ask(exitFailed, "saga", "show", nobody)
	ask(exitFailed, "saga", "history", nobody)
	ask(exitUsage, "saga", "show", "17")

	h.text("schedule", "add", "nightly/tour", "--cron", "0 3 * * *", "--saga", "tour", "--input", "{}")
	ask(exitOK, "schedule", "list")
	ask(exitOK, "schedule", "pause", "nightly/tour")
	ask(exitOK, "schedule", "show", "nightly/tour")
	ask(exitOK, "schedule", "resume", "nightly/tour")
	ask(exitFailed, "schedule", "show", "none")
	ask(exitFailed, "schedule", "pause", "none")
	h.text("schedule", "rm", "nightly/tour")

	exec(`INSERT INTO pgsagaz.outbox_dead (id, slot, txid, bucket, replayed, event_id, topic, key, routing_key, type, payload, headers, created_at, attempts, error, stuck_at, holds)
		SELECT nextval('pgsagaz.outbox_id_seq'), 0, '1', 0, false, gen_random_uuid(), 't', NULL, 'r', 't', '{"n":1}', '{"tenant": "a"}', now(), 3, 'not known here', now(), false FROM generate_series(1, 120) n`)
	var first, last string
	if err := pool.QueryRow(t.Context(), `SELECT min(id)::text, max(id)::text FROM pgsagaz.outbox_dead`).Scan(&first, &last); err != nil {
		t.Fatal(err)
	}
	ask(exitOK, "outbox", "status")
	if n := strings.Count(ask(exitOK, "outbox", "dead", "list", "--limit", "0", "--topic", "t"), "not known here"); n != 120 {
		t.Errorf("%d dead letters", n)
	}
	ask(exitOK, "outbox", "dead", "list", "--limit", "3", "--before", last)
	ask(exitOK, "outbox", "dead", "list", "--topic", "nothing")
	contains(t, ask(exitOK, "outbox", "dead", "show", first), `{"n":1}`, "header tenant", "not known here")
	ask(exitOK, "outbox", "dead", "redrive", first)
	ask(exitFailed, "outbox", "dead", "redrive", first)
	ask(exitOK, "outbox", "dead", "drop", last, "--yes")
	ask(exitFailed, "outbox", "dead", "show", last)
	exec(`DELETE FROM pgsagaz.outbox_dead; TRUNCATE pgsagaz.outbox`)

	exec(`INSERT INTO pgsagaz.inbox_dead (consumer_name, event_id, message_id, source, attempt, source_topic, key, event_type, payload, headers, traceparent, reason, error, attempts, first_at, died_at)
		SELECT 'orders', pgsagaz.inbox_event_id('', 'e' || n), 'e' || n, '', '', 'carts', 'k', CASE WHEN n % 2 = 0 THEN 'sent' ELSE 'kept' END, '{"n": 1}', '{"who": "me"}', '', 'attempts', 'no such table', 5, now(), now()
		FROM generate_series(1, 60) n;
		INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, foreign_id)
		SELECT event_id, consumer_name, source_topic, event_type, message_id FROM pgsagaz.inbox_dead`)
	if err := pool.QueryRow(t.Context(), `SELECT min(id)::text, max(id)::text FROM pgsagaz.inbox_dead`).Scan(&first, &last); err != nil {
		t.Fatal(err)
	}
	ask(exitOK, "inbox", "status")
	if n := strings.Count(ask(exitOK, "inbox", "dead", "list", "--limit", "0", "--type", "sent", "--consumer", "orders"), "no such table"); n != 30 {
		t.Errorf("%d letters", n)
	}
	ask(exitOK, "inbox", "dead", "list", "--limit", "2", "--cause", "attempts")
	contains(t, ask(exitOK, "inbox", "dead", "show", first), `{"n": 1}`, "who: me")
	ask(exitOK, "inbox", "dead", "redrive", first)
	ask(exitFailed, "inbox", "dead", "redrive", first)
	ask(exitOK, "inbox", "dead", "drop", last)
	ask(exitFailed, "inbox", "dead", "show", last)
	ask(exitOK, "inbox", "dead", "drop", "--all", "--type", "sent")
	exec(`DELETE FROM pgsagaz.inbox_dead; DELETE FROM pgsagaz.consumer_inbox`)

	// Ids of letters are drawn anew.
	number := regexp.MustCompile(`\b\d{1,4}\b`)
	for i, a := range answers {
		if strings.Contains(a, "box ") {
			answers[i] = strings.ReplaceAll(number.ReplaceAllString(a, "N"), "redrive dead letter", "dead letter") // a console looks for it first
		}
	}
	return answers
}

// TestServerMistakes: what can't be asked of a console, and what is none, is said as such.
func TestServerMistakes(t *testing.T) {
	h, _, server := served(t, sagaui.Options{})
	h.work()
	var s started
	h.ok(&s, "saga", "start", "tour", "--input", `{"hold":false}`)
	h.shows(s.ID, "awaits the signal approval")
	far := h.afar(server)

	// This one only shows.
	contains(t, far.text("saga", "show", s.ID), "awaits the signal approval")
	if text := far.text("saga", "show", s.ID) + far.text("saga", "history", s.ID); strings.Contains(text, "policy 9") || strings.Contains(text, "hold") {
		t.Errorf("payloads are withheld, and shown:\n%s", text)
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<h1>A shop</h1>") }))
	defer page.Close()
	moved := httptest.NewServer(http.RedirectHandler("https://elsewhere.example/", http.StatusMovedPermanently))
	defer moved.Close()
	for _, c := range []struct {
		args string
		code int
		said string
	}{
		{"saga cancel " + s.ID + " --reason x", exitFailed, "set up without Options.Authorize"},
		{"saga cancel " + s.ID, exitUsage, "--reason is missing"},
		{"saga list --server-token abd", exitFailed, "does not take this token"},
		{"saga list --server-token=", exitFailed, "asks for a token"},
		{"saga list --server " + page.URL, exitFailed, "there is no console at " + page.URL},
		{"saga list --server " + moved.URL, exitFailed, "leads to https://elsewhere.example/"},
		{"saga list --server http://127.0.0.1:1", exitFailed, "the console does not answer"},
		{"saga list --server shop.example", exitUsage, "--server: not of the form https://host:port/prefix"},
		{"saga list --server http://me:s3cret@shop.example", exitUsage, "give --actor, and --server-token"},
		{"saga start tour --input {}", exitUsage, "needs the database itself"},
		{"saga erase --subject s --reason r", exitUsage, "needs the database itself"},
		{"schedule rm nightly", exitUsage, "needs the database itself"},
		{"outbox replay --from 1h", exitUsage, "needs the database itself"},
		{"inbox cleanup", exitUsage, "needs the database itself"},
		{"migrate status", exitUsage, "needs the database itself"},
		{"check", exitUsage, "needs the database itself"},
	} {
		r := far.run(strings.Fields(c.args)...)
		if r.code != c.code || r.stdout != "" || strings.Contains(r.stderr, "s3cret") {
			t.Errorf("%s: %+v", c.args, r)
		}
		contains(t, r.stderr, c.said)
	}

	// Which is asked, if both are there.
	h.env["PGSAGAZ_SERVER"], h.env["PGSAGAZ_SERVER_TOKEN"] = "http://127.0.0.1:1", "abc"
	if r := h.run("saga", "list"); r.code != exitFailed || !strings.Contains(r.stderr, "the console does not answer") {
		t.Errorf("the console before the database: %+v", r)
	}
	contains(t, h.text("saga", "list", "--database-url", h.env["PGSAGAZ_DATABASE_URL"]), s.ID)
	contains(t, h.text("saga", "list", "--server", server, "--database-url", h.env["PGSAGAZ_DATABASE_URL"]), s.ID)
	contains(t, h.text("check"), "no row exists") // it has only the database to ask
	if r := h.run("check", "--server", server); r.code != exitUsage {
		t.Errorf("check of a console: %+v", r)
	}
	contains(t, alike(h.text("config")), "server-token xxxxx PGSAGAZ_SERVER_TOKEN")
}
