package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type sagaList struct {
	Sagas []pgengine.Status `json:"sagas"`
	Next  string            `json:"next"`
}

func TestSagasFromStartToEnd(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	stop := h.work("--worker-id", "w1", "--queues", "default=7", "--max-workers", "5")

	var s started
	h.ok(&s, "saga", "start", "ticket", "--input", `{"id": "1"}`, "--key", "k1", "--tag", "red", "--tag", "round", "--timeout", "1h", "--wait")
	if s.Saga == nil || s.Saga.State != pgengine.Completed || string(s.Saga.Output) != "42" || s.Saga.Deadline == nil || len(s.Saga.Tags) != 2 {
		t.Errorf("completed: %+v", s)
	}
	first := s.ID
	h.ok(&s, "saga", "start", "ticket", "--input", `{"id": "1"}`, "--key", "k1")
	if !s.Existed || s.ID != first {
		t.Errorf("the same key: %+v", s)
	}
	r := h.run("saga", "start", "ticket", "--input", `{"id": "2"}`, "--key", "k1")
	if r.code != exitFailed {
		t.Errorf("the same key and another input: %+v", r)
	}
	contains(t, r.stderr, "k1", "another input", first)

	h.exits(exitFailed, &s, "saga", "start", "ticket", "--input", `{"id": "3", "fail": true}`, "--wait")
	if s.Saga.State != pgengine.Compensated || s.Saga.Cause.Step != "pay" {
		t.Errorf("compensated: %+v", s.Saga)
	}
	contains(t, h.text("saga", "show", s.ID), "COMPENSATED", "step pay failed: no money", "book", "undo", "seat 7")

	file := filepath.Join(t.TempDir(), "input.json")
	if err := os.WriteFile(file, []byte(`{"id": "4"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, h.text("saga", "start", "ticket", "--input", "@"+file, "--wait"), "COMPLETED", "output   42")
	if r := h.runWith(t.Context(), `{"id": "5"}`, "saga", "start", "ticket", "--input", "-", "--wait"); r.code != exitOK {
		t.Errorf("input from stdin: %+v", r)
	}

	var list sagaList
	for args, want := range map[string]int{
		"--key k1": 1,
		"--tag red --name ticket --state completed": 1,
		"--tag blue":                  0,
		"--state compensated":         1,
		"--state running,stuck":       0,
		"--older-than 1h":             0,
		"--younger-than 1h --limit 2": 2,
		"--name other":                0,
	} {
		h.ok(&list, append([]string{"saga", "list"}, strings.Fields(args)...)...)
		if len(list.Sagas) != want {
			t.Errorf("saga list %s: %d sagas, want %d", args, len(list.Sagas), want)
		}
	}
	var all, next sagaList
	h.ok(&all, "saga", "list", "--limit", "0")
	h.ok(&list, "saga", "list", "--limit", "1")
	h.ok(&next, "saga", "list", "--limit", "1", "--after", list.Next)
	if len(next.Sagas) != 1 || next.Sagas[0].ID != all.Sagas[1].ID || all.Next != "" {
		t.Errorf("the second page is %+v", next)
	}
	contains(t, h.text("saga", "list", "--limit", "2"), "ID", "STATE", "ticket/1", "--after "+all.Sagas[1].ID)
	contains(t, h.text("saga", "list", "--tag", "blue"), "no sagas")

	ended := h.run("saga", "cancel", first)
	if ended.code != exitFailed {
		t.Errorf("cancel what has ended: %+v", ended)
	}
	contains(t, ended.stderr, first, "completed")

	if r := stop(); r.code != exitOK {
		t.Errorf("the worker: %+v", r)
	} else {
		contains(t, r.stdout, `"event":"starting"`, `"event":"stopped"`, `"worker":"w1"`, "ticket/1")
	}
	var found struct{ Violations []any }
	h.ok(&found, "check")
	contains(t, h.text("check"), "no row exists")
}

func TestCancelAndStuck(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	stop := h.work()

	var s started
	h.ok(&s, "saga", "start", "ticket", "--input", `{"hold": true}`)
	h.eventually(func() bool { return strings.Contains(h.text("saga", "show", s.ID), "pay is running on") })
	contains(t, h.text("saga", "show", s.ID), "What now", "pgsagaz saga cancel "+s.ID)
	contains(t, h.text("saga", "cancel", s.ID, "--reason", "rain"), "turn back", s.ID)
	h.broken.Store(true)
	var a asked
	time.AfterFunc(50*time.Millisecond, func() { close(h.held) })
	h.exits(exitFailed, &a, "saga", "cancel", s.ID, "--reason", "rain", "--wait")
	if a.Saga.State != pgengine.Stuck || a.Saga.Cause.Reason != "rain" {
		t.Fatalf("cancelled: %+v", a.Saga)
	}
	contains(t, h.text("saga", "show", s.ID), "STUCK", "cancelled: rain", "Failed attempts: 2", "the box office is closed",
		"the undo of book has given up", "pgsagaz saga retry "+s.ID)

	r := h.run("saga", "retry", s.ID, "--wait") // not mended yet
	if r.code != exitFailed {
		t.Errorf("retry in vain: %+v", r)
	}
	h.broken.Store(false)
	h.ok(&a, "saga", "retry", s.ID, "--reason", "open again", "--wait")
	if a.Saga.State != pgengine.Compensated || a.Command != "retry" {
		t.Errorf("retried: %+v", a)
	}

	stop()
	h.ok(&s, "saga", "start", "ticket", "--input", `{}`)
	contains(t, h.text("saga", "show", s.ID), "RUNNING", "it waits to be begun", "NO LIVE WORKER has the code of ticket/1")
}
