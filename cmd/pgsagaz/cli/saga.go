package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

func (a *app) saga() *cobra.Command {
	cmd := &cobra.Command{Use: "saga", Short: "List, show, start and control sagas", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(a.sagaList(), a.sagaShow(), a.sagaStart(), a.sagaCancel(), a.sagaPause(), a.sagaResume(), a.sagaRetry(),
		a.sagaSkip(), a.sagaResolve(), a.sagaRestart(), a.sagaSignal(), a.sagaVersions(), a.sagaHistory(), a.sagaWatch(), a.sagaGraph(), a.sagaPlan(),
		a.sagaErase(), a.sagaExport())
	return cmd
}

var states = []pgengine.State{
	pgengine.Running, pgengine.Failing, pgengine.Compensating, pgengine.Stuck, pgengine.Completed, pgengine.Compensated,
}

func (a *app) sagaList() *cobra.Command {
	var f pgengine.Filter
	var wanted []string
	cmd := &cobra.Command{
		Use: "list", Short: "List sagas, newest first", Args: cobra.NoArgs,
		Example: "  pgsagaz saga list --state stuck\n  pgsagaz saga list --name order --state running --older-than 10m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range wanted {
				if !slices.Contains(states, pgengine.State(s)) {
					return usagef("--state: %q is no state of a saga; there are %s", s, joinStates())
				}
				f.States = append(f.States, pgengine.State(s))
			}
			switch {
			case f.Limit < 0:
				return usagef("--limit: %d is negative", f.Limit)
			case f.OlderThan < 0 || f.YoungerThan < 0:
				return usagef("--older-than and --younger-than must not be negative")
			case f.After != "" && !isID(f.After):
				return usagef("--after: %q is not the id of a saga", f.After)
			}
			return a.withDesk(cmd.Context(), func(d desk) error { return a.list(cmd.Context(), d, f) })
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&wanted, "state", nil, "only sagas in these states: "+joinStates())
	flags.StringVar(&f.Name, "name", "", "only sagas of this name")
	flags.StringVar(&f.Tag, "tag", "", "only sagas with this tag")
	flags.StringVar(&f.Key, "key", "", "only the saga started with this key")
	flags.BoolVar(&f.Paused, "paused", false, "only sagas that are paused")
	flags.BoolVar(&f.Archived, "archived", false, "those that have ended and moved into the archive")
	flags.DurationVar(&f.OlderThan, "older-than", 0, "only sagas started longer ago than this")
	flags.DurationVar(&f.YoungerThan, "younger-than", 0, "only sagas started within this time")
	flags.IntVar(&f.Limit, "limit", 50, "how many; 0: all")
	flags.StringVar(&f.After, "after", "", "only sagas started before the one with this id: the next page")
	return cmd
}

func joinStates() string {
	var names []string
	for _, s := range states {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

func (a *app) list(ctx context.Context, d desk, f pgengine.Filter) error {
	page := struct {
		Sagas []pgengine.Status `json:"sagas"`
		Next  string            `json:"next,omitempty"` // give it to --after; there may be nothing
	}{Sagas: []pgengine.Status{}}
	found, err := d.Sagas(ctx, f)
	if err != nil {
		return err
	}
	page.Sagas = append(page.Sagas, found...)
	if f.Limit > 0 && len(page.Sagas) == f.Limit {
		page.Next = page.Sagas[f.Limit-1].ID
	}
	return a.print(page, func(w io.Writer) {
		if len(page.Sagas) == 0 {
			fmt.Fprintln(w, "no sagas")
			return
		}
		rows := [][]string{{"ID", "SAGA", "STATE", "STARTED", "TOOK", "KEY", "TAGS", "CAUSE"}}
		for _, s := range page.Sagas {
			rows = append(rows, []string{
				s.ID, fmt.Sprintf("%s/%d", s.Name, s.Version), stateOf(s), span(time.Since(s.CreatedAt)) + " ago", took(s),
				orDash(clip(s.Key, 30)), orDash(clip(strings.Join(s.Tags, ","), 30)), orDash(clip(causeOf(s), 60)),
			})
		}
		table(w, "", rows)
		if page.Next != "" {
			fmt.Fprintf(w, "\nthere may be more: --after %s\n", page.Next)
		}
	})
}

// stateOf is the state with what may keep the saga there.
func stateOf(s pgengine.Status) string {
	if s.PausedAt != nil {
		return string(s.State) + " (paused)"
	}
	return string(s.State)
}

func took(s pgengine.Status) string {
	if s.EndedAt == nil {
		return "-"
	}
	return span(s.EndedAt.Sub(s.CreatedAt))
}

func causeOf(s pgengine.Status) string {
	if s.Cause == nil {
		return ""
	}
	return s.Cause.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// oneID is the check of commands that act on one saga.
func oneID(_ *cobra.Command, args []string) error {
	switch {
	case len(args) != 1:
		return fmt.Errorf("give the id of one saga, not %d arguments", len(args))
	case !isID(args[0]):
		return fmt.Errorf("%q is not the id of a saga", args[0])
	}
	return nil
}
