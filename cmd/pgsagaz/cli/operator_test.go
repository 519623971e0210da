package cli

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type tour struct {
	Hold bool `json:"hold"` // its ticket holds
	Lost bool `json:"lost"` // nobody knows whether the contract was signed
}

func (tour) SagaName() string { return "tour" }

type approval struct {
	By string `json:"by"`
}

func (approval) SignalName() string { return "approval" }

// tour is a saga with everything that an operator may have to do with.
//
//	venue ┬ insurance ┬ seats ─ sign^ ─ posters
//	      └ approve   ┘
func (h *theatre) tour() pgengine.Definition {
	type call = pgengine.Call[tour]
	venue := pgengine.TxStep[tour, string]{
		Name: "venue", Do: func(context.Context, pgx.Tx, call) (string, error) { return "hall 1", nil },
		Undo: func(context.Context, pgx.Tx, call, string) error { return nil },
	}
	insurance := pgengine.Activity[tour, string]{
		Name: "insurance", After: pgengine.Steps(venue), ManualUndo: true,
		Do: func(context.Context, call) (string, error) { return "policy 9", nil },
	}
	approve := pgengine.Await[tour, approval]{Name: "approve", After: pgengine.Steps(venue), Timeout: time.Hour}
	seats := pgengine.Child[tour, ticket, int]{
		Name: "seats", After: pgengine.Steps[tour](insurance, approve),
		Input: func(_ context.Context, c call) (ticket, error) {
			return ticket{ID: "of a tour", Hold: c.Input.Hold}, nil
		},
	}
	sign := pgengine.Activity[tour, string]{
		Name: "sign", After: pgengine.Steps[tour](seats), Pivot: true, Retry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do: func(_ context.Context, c call) (string, error) {
			if c.Input.Lost {
				return "", errors.New("the line went dead")
			}
			return "contract", nil
		},
	}
	posters := pgengine.Activity[tour, string]{
		Name: "posters", After: pgengine.Steps(sign),
		Do: func(context.Context, call) (string, error) { return "", pgengine.Terminal(errors.New("no paper")) },
		Recover: func(context.Context, call, error) (pgengine.Recovery[string], error) {
			return pgengine.Recovery[string]{Action: pgengine.RecoverSkip, Reason: "there is radio"}, nil
		},
	}
	return pgengine.Saga[tour]{Version: 3, Output: sign, Steps: pgengine.Steps[tour](venue, insurance, approve, seats, sign, posters)}
}

// shows waits until saga show has all of that.
func (h *theatre) shows(id string, wanted ...string) {
	h.t.Helper()
	var text string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text = h.text("saga", "show", id)
		missing := false
		for _, w := range wanted {
			missing = missing || !strings.Contains(text, w)
		}
		if !missing {
			return
		}
		if time.Now().After(deadline) {
			contains(h.t, text, wanted...)
			h.t.FailNow()
		}
	}
}

func TestAnOperatorHelpsASagaThrough(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	h.work("--worker-id", "w1")
	var s started
	h.ok(&s, "saga", "start", "tour", "--input", `{"hold": true, "lost": true}`, "--key", "t1")

	h.shows(s.ID, "step approve awaits the signal approval, until ", "(in 59m", "pgsagaz saga signal "+s.ID+" approval '{...}'")
	var v view
	h.ok(&v, "saga", "show", s.ID)
	if len(v.Waits) != 1 || v.Waits[0].Step != "approve" || v.Waits[0].For != "a signal" || v.Waits[0].Signal != "approval" || v.Waits[0].Until == nil {
		t.Errorf("it waits for %+v", v.Waits)
	}
	r := h.run("saga", "signal", s.ID, "applause")
	if r.code != exitFailed {
		t.Errorf("a signal that nobody awaits: %+v", r)
	}
	contains(t, r.stderr, "no step of saga tour version 3 awaits the signal applause", "It awaits: approval")
	contains(t, h.text("saga", "signal", "tour=t1", "approval", `{"by": "Ada"}`, "--key", "mail-1"), "told saga tour=t1: approval")
	var sent signalled
	h.ok(&sent, "saga", "signal", s.ID, "approval", "--key", "mail-1") // once more: it counts once
	if sent.Saga != s.ID || sent.Signal != "approval" || sent.Key != "mail-1" || string(sent.Payload) != "{}" {
		t.Errorf("sent %+v", sent)
	}

	h.shows(s.ID, "step seats waits for its children: 1 running", "Children: 1 running", "Signals: 1", "mail-1", "taken by approve", `{"by": "Ada"}`)
	close(h.held)
	h.shows(s.ID, "STUCK", "step sign has given up: the line went dead", "pgsagaz saga retry "+s.ID,
		"if sign is done, with its result:", "pgsagaz saga resolve "+s.ID+" sign done --reason '...' --result '{...}'",
		"if sign has not happened", "pgsagaz saga resolve "+s.ID+" sign failed", "Children: 1 completed")
	h.ok(&v, "saga", "show", s.ID)
	if len(v.Waits) != 1 || v.Waits[0].For != "an operator" || len(v.Waits[0].Outcomes) != 2 || len(v.Now) == 0 {
		t.Errorf("it waits for %+v, and what now is %q", v.Waits, v.Now)
	}
	for args, said := range map[string]string{
		"sign skipped":                 "step sign of saga " + s.ID + " can't be skipped: it may be done or failed",
		"sign done":                    "give --result",
		"sign done --result 7":         "does not fit string",
		"seats done":                   "does not wait for an operator",
		"encore done":                  "does not wait for an operator",
		"sign done --result @/no/file": "/no/file",
	} {
		r := h.run(append([]string{"saga", "resolve", s.ID}, strings.Fields(args)...)...)
		if r.code != exitFailed {
			t.Errorf("resolve %s: %+v", args, r)
		}
		contains(t, r.stderr, said)
	}
	var a asked
	h.ok(&a, "saga", "resolve", s.ID, "sign", "done", "--result", `"by phone"`, "--reason", "they called back", "--wait")
	if a.Command != "resolve" || a.Saga.State != pgengine.Completed {
		t.Errorf("resolved: %+v", a)
	}
	h.shows(s.ID, "COMPLETED", `output   "by phone"`, "[they called back]", "posters", "skipped", "[there is radio]")
}

func TestAnOperatorUndoesByHand(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	h.work()
	var s started
	h.ok(&s, "saga", "start", "tour", "--input", `{}`)
	h.shows(s.ID, "awaits the signal approval", "policy 9", "pgsagaz saga cancel "+s.ID)
	h.exits(exitFailed, &asked{}, "saga", "cancel", s.ID, "--wait")
	text := h.text("saga", "show", s.ID)
	contains(t, text, "STUCK", "the undo of insurance is an operator's", "if insurance is undone, by hand or all along:",
		"pgsagaz saga resolve "+s.ID+" insurance done --reason '...'\n", "leave insurance as it is", "pgsagaz saga resolve "+s.ID+" insurance skipped")
	if strings.Contains(text, "saga retry") {
		t.Errorf("a retry is no use where all is an operator's:\n%s", text)
	}
	r := h.run("saga", "resolve", s.ID, "insurance", "failed")
	if r.code != exitFailed {
		t.Errorf("an undo that failed: %+v", r)
	}
	contains(t, r.stderr, "its undo may be done or skipped")
	contains(t, h.text("saga", "resolve", s.ID, "insurance", "skipped", "--reason", "it has lapsed"), "told saga "+s.ID+" that insurance is skipped")
	h.shows(s.ID, "COMPENSATED", "[it has lapsed]")
}

func TestPlansGraphsAndVersions(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	contains(t, h.text("saga", "versions"), "no sagas are registered")
	var plan pgengine.Plan
	h.ok(&plan, "saga", "plan", "tour") // its code is here
	stop := h.work()
	var registered pgengine.Plan
	h.ok(&registered, "saga", "plan", "tour", "--version", "3")
	if plan.Version != 3 || plan.Pivot != "sign" || len(plan.Faults) == 0 || len(registered.Faults) != len(plan.Faults) {
		t.Errorf("from the code %+v\nregistered %+v", plan, registered)
	}
	nowhere := &theatre{t: t} // and without any database
	for _, of := range []*theatre{h, nowhere} {
		contains(t, of.text("saga", "plan", "tour"), "saga tour/3: 6 steps in 5 layers, at most 2 at once",
			"critical path   venue > insurance > seats > sign > posters", "insurance, approve", "undone          seats > insurance > venue",
			"pivot           sign", "wait all: they end by themselves", "approve  it only waits", "posters  it comes after the pivot sign",
			"none of 2 attempts says whether it happened", "an operator says failed of sign")
		contains(t, of.text("saga", "graph", "tour"), "flowchart TD\n", `s0["venue<br/>tx"]`, `s1("insurance<br/>activity<br/>undone by hand")`,
			`s2{{"approve<br/>await approval"}}`, `s3[["seats<br/>child ticket"]]`, `s4("sign<br/>activity<br/>pivot, output")`,
			`s5("posters<br/>activity<br/>recover")`, "s0 --> s1\n", "s2 --> s3\n", "class s4 pivot\n")
	}
	var graph struct {
		Name    string
		Version int
		Steps   []pgengine.GraphStep
		Mermaid string
	}
	h.ok(&graph, "saga", "graph", "tour")
	if graph.Name != "tour" || graph.Version != 3 || len(graph.Steps) != 6 || !strings.HasPrefix(graph.Mermaid, "flowchart") {
		t.Errorf("graph %+v", graph)
	}

	h.ok(&started{}, "saga", "start", "tour", "--input", "{}")
	var list struct{ Versions []pgengine.VersionStatus }
	h.ok(&list, "saga", "versions", "tour")
	if len(list.Versions) != 1 {
		t.Fatalf("versions %+v", list)
	}
	if v := list.Versions[0]; v.Name != "tour" || v.Version != 3 || v.Unfinished != 1 || v.Stuck != 0 || v.Workers != 1 || v.RegisteredAt == nil {
		t.Errorf("versions %+v", list)
	}
	contains(t, h.text("saga", "versions"), "SAGA", "ticket/1", "tour/3")
	stop()
	h.eventually(func() bool {
		return strings.Contains(h.text("saga", "versions"), "STANDS STILL: no live worker has its code")
	})
}
