package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// findings is what check prints as JSON.
type findings struct {
	Repaired   []sql.Repaired  `json:"repaired,omitempty"`
	Violations []sql.Violation `json:"violations"` // rows that must not exist
	Overdue    []sql.Violation `json:"overdue"`    // what nobody sees to
}

func (a *app) check() *cobra.Command {
	var repair bool
	var patience time.Duration
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: "check", Short: "Look for rows that must not exist, and for what nobody sees to; exit status 1 if there is any", Args: cobra.NoArgs,
		Long: "Looks for rows that must not exist, whatever has happened: the invariants of the schema. And for what workers,\n" +
			"relays and consumers would have seen to if they were there: sagas that nobody will look at, leases and deadlines that\n" +
			"ended, messages that nobody publishes, partitions that nobody makes (overdue_...). It reads one snapshot, locks nothing,\n" +
			"and may run while sagas do. Exit status 1 if it finds any.\n\n" +
			"With --repair it first sets right what can be set right without a risk: at worst a step is tried or a message sent\n" +
			"once more. Each repair is written into the audit. The exit status tells of what is left.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if patience <= 0 {
				return &usageError{errors.New("--patience must be more than 0")}
			}
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				found, err := examine(cmd.Context(), e, repair, sql.RepairOptions{Patience: patience, Actor: by().Actor, Reason: by().Reason})
				if err != nil {
					return err
				}
				all := slices.Concat(found.Violations, found.Overdue)
				err = a.print(found, func(w io.Writer) {
					for _, r := range found.Repaired {
						fmt.Fprintln(w, "repaired", r)
					}
					for _, v := range all {
						fmt.Fprintln(w, v)
					}
					if len(all) == 0 {
						fmt.Fprintln(w, "no row exists that must not")
					}
				})
				if err == nil && len(all) > 0 {
					return exitCode(exitFailed)
				}
				return err
			})
		},
	}
	by = a.by(cmd.Flags(), "why, for the audit of a repair")
	cmd.Flags().BoolVar(&repair, "repair", false, "set right what is safe to set right")
	cmd.Flags().DurationVar(&patience, "patience", sql.DefaultPatience, "how long something may be overdue before it is told, or repaired")
	return cmd
}

// examine repairs, if it is to, and then looks what there is.
func examine(ctx context.Context, e *pgengine.Engine, repair bool, opts sql.RepairOptions) (found findings, err error) {
	if repair {
		if found.Repaired, err = sql.Repair(ctx, e.Pool(), opts); err != nil {
			return found, err
		}
	}
	if found.Violations, err = e.Check(ctx); err != nil {
		return found, err
	}
	if found.Overdue, err = sql.Overdue(ctx, e.Pool(), opts.Patience); err != nil {
		return found, err
	}
	if found.Violations == nil {
		found.Violations = []sql.Violation{}
	}
	if found.Overdue == nil {
		found.Overdue = []sql.Violation{}
	}
	return found, nil
}

// stampedVersion and stampedCommit are set by the linker (see Dockerfile), where a build has no repository to read them from.
var stampedVersion, stampedCommit string

// built is which version of this program it is, and of which commit; "": the commit is not known.
func built() (version, commit string) {
	version = "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	return cmp.Or(stampedVersion, version), cmp.Or(stampedCommit, commit)
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show what this program is made of", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Schema  int    `json:"schema"` // that this program is made for
				Go      string `json:"go"`
			}{Schema: sql.Version(), Go: runtime.Version()}
			v.Version, v.Commit = built()
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "pgsagaz %s %s, schema %d, %s\n", v.Version, v.Commit, v.Schema, v.Go)
			})
		},
	}
}
