package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// view is all there is to show of a saga.
type view struct {
	pgengine.Status
	Waits []waiting `json:"waits,omitempty"` // what its steps wait for
	Now   []string  `json:"now,omitempty"`   // what a person can do, with what to type

	graph   *pgengine.Graph // nil: not registered
	workers []string        // live ones that have its code
}

func (a *app) sagaShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a saga with its steps, what went wrong, and what to do", Args: oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				s, err := d.Saga(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				v, err := look(cmd.Context(), d, s)
				if err != nil {
					return err
				}
				return a.print(v, v.show)
			})
		},
	}
}

// look adds what the database knows of a saga's definition and workers.
func look(ctx context.Context, d desk, s pgengine.Status) (view, error) {
	v := view{Status: s}
	g, _, err := d.Graph(ctx, s.Name, s.Version)
	switch {
	case err == nil:
		v.graph = &g
	case !errors.Is(err, pgengine.ErrUnknownSaga):
		return v, err
	}
	if v.workers, err = d.Workers(ctx, s); err != nil {
		return v, err
	}
	v.Waits = v.waits()
	v.Now = v.nextMoves()
	return v, nil
}

// show writes for a person at three in the morning: what is it, what went wrong, what now.
func (v view) show(w io.Writer) {
	s := v.Status
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	p("saga %s  %s/%d  %s", s.ID, s.Name, s.Version, strings.ToUpper(stateOf(s)))
	p("")
	p("  started  %s (%s ago)", clock(s.CreatedAt), span(time.Since(s.CreatedAt)))
	if s.EndedAt != nil {
		p("  ended    %s, after %s", clock(*s.EndedAt), span(s.EndedAt.Sub(s.CreatedAt)))
	}
	if s.Deadline != nil && s.EndedAt == nil {
		p("  deadline %s", clock(*s.Deadline))
	}
	if s.PausedAt != nil {
		p("  paused   %s", clock(*s.PausedAt))
	}
	for _, of := range []struct{ title, id string }{
		{"part of", strings.TrimSpace(s.Parent + " " + s.ParentStep)}, {"goes on for", s.RestartOf}, {"restarted as", s.RestartedAs},
	} {
		if of.id != "" {
			p("  %s %s", of.title, of.id)
		}
	}
	if s.Key != "" {
		p("  key      %s", s.Key)
	}
	if len(s.Tags) > 0 {
		p("  tags     %s", strings.Join(s.Tags, ", "))
	}
	p("  input    %s", clip(string(s.Input), 300))
	if len(s.Output) > 0 {
		p("  output   %s", clip(string(s.Output), 300))
	}
	if s.Cause != nil {
		p("  cause    %s", s.Cause)
	}
	if len(s.Steps) > 0 {
		p("")
		showSteps(w, s)
	}
	if len(s.Attempts) > 0 {
		p("")
		showAttempts(w, s.Attempts)
	}
	showChildren(w, s.Children)
	showSignals(w, s.Signals)
	showAudit(w, s.Audit)
	if len(v.Now) > 0 {
		p("")
		p("What now:")
		for _, line := range v.Now {
			p("  %s", line)
		}
	}
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }

func showSteps(w io.Writer, s pgengine.Status) {
	rows := [][]string{{"STEP", "", "STATE", "ATTEMPT", "ENDED", "TOOK", "WORKER", "RESULT OR ERROR"}}
	for _, t := range s.Steps {
		state := t.State
		if t.InDoubt {
			state += " (in doubt)"
		}
		if t.Generation > 1 {
			state += fmt.Sprintf(" (again, %d)", t.Generation)
		}
		ended, lasted := "-", "-"
		if t.EndedAt != nil {
			ended = t.EndedAt.Local().Format("15:04:05.000")
			if t.StartedAt != nil {
				lasted = span(t.EndedAt.Sub(*t.StartedAt))
			}
		}
		said := compact(t.Result)
		if t.Error != "" {
			said = t.Error
		}
		said = clip(said, 100)
		if t.Note != "" { // of a Recover or an operator, or why there was nothing to do
			said = strings.TrimSpace(said + " [" + clip(t.Note, 100) + "]")
		}
		rows = append(rows, []string{
			t.Step, string(t.Direction), state, strconv.Itoa(t.Attempt), ended, lasted, orDash(t.Worker), orDash(said),
		})
	}
	table(w, "  ", rows)
}

func compact(raw json.RawMessage) string {
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}

// showAttempts shows the last ones: of a thousand attempts the first tell no more.
func showAttempts(w io.Writer, all []pgengine.Attempt) {
	const most = 20
	fmt.Fprintf(w, "  Failed attempts: %d", len(all))
	if len(all) > most {
		fmt.Fprintf(w, "; the last %d (all with --json)", most)
		all = all[len(all)-most:]
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, t := range all {
		rows = append(rows, []string{
			t.EndedAt.Local().Format("15:04:05.000"), t.Step, string(t.Direction), "#" + strconv.Itoa(t.Attempt), t.Kind,
			span(t.EndedAt.Sub(t.StartedAt)), orDash(t.Worker), clip(t.Error, 200),
		})
	}
	table(w, "    ", rows)
}

// showChildren shows first those that somebody may have to look at.
func showChildren(w io.Writer, all []pgengine.ChildStatus) {
	if len(all) == 0 {
		return
	}
	const most = 20
	open := slices.Clone(all)
	slices.SortStableFunc(open, func(a, b pgengine.ChildStatus) int { return urgency(a.State) - urgency(b.State) })
	fmt.Fprintf(w, "\n  Children: %s", tally(all))
	if len(open) > most {
		fmt.Fprintf(w, "; %d of them (all with --json)", most)
		open = open[:most]
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, c := range open {
		rows = append(rows, []string{c.Step, "#" + strconv.Itoa(c.Item), c.Name, string(c.State), orDash(c.ID)})
	}
	table(w, "    ", rows)
}

func urgency(s pgengine.State) int {
	switch {
	case s == pgengine.Stuck:
		return 0
	case s.Ended():
		return 2
	}
	return 1
}

// tally counts children by their states.
func tally(children []pgengine.ChildStatus) string {
	counts := map[pgengine.State]int{}
	for _, c := range children {
		counts[c.State]++
	}
	var words []string
	for _, state := range slices.Concat(states, []pgengine.State{"waiting"}) {
		if counts[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", counts[state], state))
		}
	}
	return strings.Join(words, ", ")
}

func showSignals(w io.Writer, all []pgengine.SignalStatus) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  Signals: %d\n", len(all))
	var rows [][]string
	for _, s := range all {
		taken := "kept for a step to come"
		if s.Step != "" {
			taken = "taken by " + s.Step
		}
		rows = append(rows, []string{s.SentAt.Local().Format("15:04:05.000"), s.Name, orDash(clip(s.Key, 30)), taken, clip(string(s.Payload), 100)})
	}
	table(w, "    ", rows)
}

// showAudit shows what people asked of the saga.
func showAudit(w io.Writer, all []pgengine.AuditEntry) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  Audit: %d\n", len(all))
	var rows [][]string
	for _, a := range all {
		rows = append(rows, []string{a.At.Local().Format("2006-01-02 15:04:05"), a.Actor, asks(a), answerOf(a), orDash(clip(a.Reason, 100))})
	}
	table(w, "    ", rows)
}

// asks is what somebody asked for: the verb, and what it is about.
func asks(a pgengine.AuditEntry) string {
	words := []string{a.Verb}
	if a.Step != "" {
		words = append(words, a.Step)
	}
	var details map[string]string
	if json.Unmarshal(a.Details, &details) == nil {
		for _, name := range slices.Sorted(maps.Keys(details)) {
			words = append(words, name+"="+details[name])
		}
	}
	return strings.Join(words, " ")
}

func answerOf(a pgengine.AuditEntry) string {
	if a.Why == "" {
		return a.Answer
	}
	return a.Answer + ": " + a.Why
}
