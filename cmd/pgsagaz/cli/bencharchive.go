package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/bench"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (a *app) benchArchive() *cobra.Command {
	cmd := &cobra.Command{
		Use: "archive", Short: "What running sagas feel while many that have ended are archived, against the same without", Args: cobra.NoArgs,
		Long: "Writes sagas that have ended a day ago, and then has others run: in turns with an archiver beside them and without. Each in\n" +
			"flight rests for 20 ms between two sagas, so that the server is busy, and not full.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.benchOptions()
			if err != nil {
				return err
			}
			if a.cfg.benchRows < 0 {
				return usagef("--rows: %d is negative", a.cfg.benchRows)
			}
			if a.cfg.origins["concurrency"] == "" {
				o.Concurrency = nil // its own default
			}
			return a.benchOn(cmd.Context(), func(config *pgxpool.Config) error {
				sql.WakeOnCommit(config)
				pool, err := pgxpool.NewWithConfig(cmd.Context(), config)
				if err != nil {
					return err
				}
				defer pool.Close()
				results, err := bench.Archive(cmd.Context(), pool, bench.ArchiveOptions{Options: o, Rows: a.cfg.benchRows})
				if err != nil {
					return err
				}
				return a.print(results, func(w io.Writer) {
					rows := [][]string{{"in flight", "sagas/s", "p50 ms", "p99 ms", "without/s", "p50 ms", "p99 ms", "p99 ratio", "archived", "archived/s"}}
					for _, r := range results {
						rows = append(rows, []string{strconv.Itoa(r.Concurrency),
							figure(r.With.PerSecond), figure(r.With.P50), figure(r.With.P99),
							figure(r.Without.PerSecond), figure(r.Without.P50), figure(r.Without.P99), figure(r.P99Ratio),
							strconv.FormatInt(r.Archived, 10), figure(r.PerSecond)})
					}
					table(w, "", rows)
					for _, r := range results {
						if r.Left == 0 {
							fmt.Fprintf(w, "all %d were archived before the end: give more --rows\n", r.Rows)
						}
					}
				})
			})
		},
	}
	a.cfg.bind(cmd.Flags(), "steps", "concurrency", "duration", "rounds", "pool-size", "rows")
	return cmd
}
