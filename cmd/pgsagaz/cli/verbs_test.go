package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestVerbs(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	h.env["PGSAGAZ_ACTOR"] = "ann"
	h.work()

	// Ended without undoing, and gone on with as another.
	var s started
	h.ok(&s, "saga", "start", "ticket", "--input", `{"hold": true}`)
	h.shows(s.ID, "pay is running on")
	contains(t, h.text("saga", "pause", s.ID, "--reason", "stop"), "to pause: obeyed")
	h.shows(s.ID, "RUNNING (PAUSED)", "saga resume "+s.ID, "ann", "pause", "obeyed")
	var list sagaList
	h.ok(&list, "saga", "list", "--paused")
	if len(list.Sagas) != 1 || list.Sagas[0].ID != s.ID {
		t.Errorf("paused: %+v", list)
	}
	contains(t, h.text("saga", "list", "--paused"), "running (paused)")
	var a asked
	h.ok(&a, "saga", "cancel", s.ID, "--no-undo", "--reason", "by phone")
	if a.Audit == nil || a.Audit.Verb != "abandon" || a.Audit.Answer != "obeyed" || a.Audit.Actor != "ann" || a.Audit.Reason != "by phone" {
		t.Errorf("%+v", a.Audit)
	}
	close(h.held)
	h.shows(s.ID, "COMPENSATED", "an operator ended it without undoing", "skipped")
	contains(t, h.text("saga", "graph", s.ID), "flowchart TD", "undo skipped", "classDef skipped", "s1 -. undo .-> s0")
	var graph struct{ Mermaid, State string }
	h.ok(&graph, "saga", "graph", s.ID)
	if graph.State != "compensated" || graph.Mermaid == "" {
		t.Errorf("%+v", graph)
	}

	r := h.run("saga", "restart", s.ID)
	if r.code != exitUsage {
		t.Errorf("without --from: %+v", r)
	}
	r = h.run("saga", "restart", s.ID, "--from", "nowhere")
	if r.code != exitFailed {
		t.Errorf("from nowhere: %+v", r)
	}
	contains(t, r.stderr, `there is no step "nowhere"`)
	var again restarted
	h.ok(&again, "saga", "restart", s.ID, "--from", "pay", "--reason", "the card works now", "--wait")
	if again.Of != s.ID || again.ID == s.ID || again.Saga.State != pgengine.Completed {
		t.Errorf("%+v", again)
	}
	contains(t, h.text("saga", "show", s.ID), "restarted as "+again.ID)
	contains(t, h.text("saga", "restart", s.ID, "--from", "pay"), again.ID)
	contains(t, h.text("saga", "history", again.ID), "goes on for "+s.ID, "taken over from saga "+s.ID, "the card works now", "ended", "completed")
	var history struct{ Events []pgengine.Entry }
	h.ok(&history, "saga", "history", again.ID)
	if n := len(history.Events); n < 6 || history.Events[0].What != "started" || history.Events[n-1].What != "ended" {
		t.Errorf("%+v", history.Events)
	}

	// One that is watched while it goes wrong.
	h.broken.Store(true)
	h.ok(&s, "saga", "start", "ticket", "--input", `{"fail": true}`)
	watched := make(chan result, 1)
	go func() { watched <- h.run("saga", "watch", s.ID, "--json") }()
	h.shows(s.ID, "STUCK")
	contains(t, h.text("saga", "skip", s.ID, "book", "--reason", "keep the seat"), "to go on without it (book): obeyed")
	w := <-watched
	if w.code != exitFailed { // it is compensated
		t.Errorf("%+v", w)
	}
	var what []string
	for line := range strings.Lines(w.stdout) {
		var e pgengine.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		what = append(what, e.What)
	}
	for _, wanted := range []string{"started", "failed", "attempt", "asked", "answered", "skipped", "ended"} {
		if !strings.Contains(strings.Join(what, " "), wanted) {
			t.Errorf("%q is missing in %q", wanted, what)
		}
	}
	contains(t, h.run("saga", "watch", s.ID).stdout, "keep the seat", "compensated")

	r = h.run("saga", "skip", s.ID)
	if r.code != exitUsage {
		t.Errorf("skip without a step: %+v", r)
	}
	r = h.run("saga", "retry", s.ID, "book")
	if r.code != exitFailed {
		t.Errorf("retry of what has ended: %+v", r)
	}
}

func TestMigrateRoles(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	var names struct{ App, Worker, Ops, Readonly string }
	h.ok(&names, "migrate", "roles", "--app", "cli_app", "--worker", "cli_worker", "--ops", "cli_ops", "--readonly", "cli_readonly")
	if names.App != "cli_app" {
		t.Errorf("%+v", names)
	}
	contains(t, h.text("migrate", "roles", "--app", "cli_app", "--worker", "cli_worker", "--ops", "cli_ops", "--readonly", "cli_readonly"),
		"cli_app, cli_worker, cli_ops and cli_readonly have their rights")
}
