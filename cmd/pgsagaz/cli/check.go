package cli

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (a *app) check() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Look for rows that must not exist; exit status 1 if there are any", Args: cobra.NoArgs,
		Long: "Looks for rows that must not exist, whatever has happened: the invariants of the schema.\n" +
			"It reads one snapshot and may run while sagas do. Exit status 1 if it finds any.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				found, err := e.Check(cmd.Context())
				if err != nil {
					return err
				}
				if found == nil {
					found = []sql.Violation{}
				}
				err = a.print(struct {
					Violations []sql.Violation `json:"violations"`
				}{found}, func(w io.Writer) {
					for _, v := range found {
						fmt.Fprintln(w, v)
					}
					if len(found) == 0 {
						fmt.Fprintln(w, "no row exists that must not")
					}
				})
				if err == nil && len(found) > 0 {
					return exitCode(exitFailed)
				}
				return err
			})
		},
	}
}

// stampedVersion and stampedCommit are set by the linker (see Dockerfile), where a build has no repository to read them from.
var stampedVersion, stampedCommit string

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show what this program is made of", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Schema  int    `json:"schema"` // that this program is made for
				Go      string `json:"go"`
			}{Version: "unknown", Schema: sql.Version(), Go: runtime.Version()}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Version = info.Main.Version
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Commit = s.Value
					}
				}
			}
			v.Version, v.Commit = cmp.Or(stampedVersion, v.Version), cmp.Or(stampedCommit, v.Commit)
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "pgsagaz %s %s, schema %d, %s\n", v.Version, v.Commit, v.Schema, v.Go)
			})
		},
	}
}
