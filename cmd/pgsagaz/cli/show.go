package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (a *app) sagaShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a saga with its steps, what went wrong, and what to do", Args: oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				s, err := e.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				workers, err := capable(cmd.Context(), e, s)
				if err != nil {
					return err
				}
				return a.print(s, func(w io.Writer) { a.showSaga(w, s, workers) })
			})
		},
	}
}

// capable names the live workers that have the saga's code. It is not nil.
func capable(ctx context.Context, e *pgengine.Engine, s pgengine.Status) ([]string, error) {
	rows, err := e.Pool().Query(ctx, sql.WorkerList)
	if err != nil {
		return nil, err
	}
	type worker struct {
		ID, Host      string
		PID           int
		Definitions   []string
		Started, Beat time.Time
		Live          bool
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[worker])
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, w := range all {
		if w.Live && slices.Contains(w.Definitions, fmt.Sprintf("%s/%d", s.Name, s.Version)) {
			names = append(names, w.ID)
		}
	}
	return names, nil
}

// showSaga writes for a person at three in the morning: what is it, what went wrong, what now. workers
// are those that could work it; nil: not known.
func (a *app) showSaga(w io.Writer, s pgengine.Status, workers []string) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	p("saga %s  %s/%d  %s", s.ID, s.Name, s.Version, strings.ToUpper(string(s.State)))
	p("")
	p("  started  %s (%s ago)", clock(s.CreatedAt), span(time.Since(s.CreatedAt)))
	if s.EndedAt != nil {
		p("  ended    %s, after %s", clock(*s.EndedAt), span(s.EndedAt.Sub(s.CreatedAt)))
	}
	if s.Deadline != nil && s.EndedAt == nil {
		p("  deadline %s", clock(*s.Deadline))
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
	if next := nextMoves(s, workers); len(next) > 0 {
		p("")
		p("What now:")
		for _, line := range next {
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
		rows = append(rows, []string{
			t.Step, string(t.Direction), state, strconv.Itoa(t.Attempt), ended, lasted, orDash(t.Worker), orDash(clip(said, 100)),
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

// nextMoves say what a person can do, with what to type.
func nextMoves(s pgengine.Status, workers []string) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if s.State.Ended() {
		return nil
	}
	stuck, busy := false, false
	for _, t := range s.Steps {
		direction := "step"
		if t.Direction == pgengine.Undo {
			direction = "the undo of"
		}
		switch t.State {
		case "stuck":
			stuck = true
			say("%s %s has given up: %s", direction, t.Step, clip(t.Error, 200))
		case "waiting":
			busy = true
			if t.NextAt != nil && time.Until(*t.NextAt) > 0 {
				say("%s %s is tried again in %s (%d failed so far): %s", direction, t.Step, span(time.Until(*t.NextAt)), t.Attempt, clip(t.Error, 200))
			} else {
				say("%s %s waits for a worker", direction, t.Step)
			}
		case "running":
			busy = true
			say("%s %s is running on %s", direction, t.Step, orDash(t.Worker))
		}
	}
	switch {
	case stuck:
		say("Mend what the error tells of, then:")
		say("  pgsagaz saga retry %s --reason '...' --wait", s.ID)
	case s.State == pgengine.Running:
		if !busy {
			say("it waits to be begun, or to go on")
		}
		say("To turn it back:  pgsagaz saga cancel %s --reason '...' --wait", s.ID)
	default:
		say("it turns back by itself: nothing to do unless it becomes stuck")
	}
	if workers != nil && len(workers) == 0 {
		say("NO LIVE WORKER has the code of %s/%d: nothing goes on until one is started (pgsagaz worker)", s.Name, s.Version)
	}
	return lines
}
