package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/bench"
)

func (a *app) benchInbox() *cobra.Command {
	cmd := &cobra.Command{
		Use: "inbox", Short: "Duplicates, claims, batches, a big inbox and its cleanup, against the same without an inbox", Args: cobra.NoArgs,
		Long: "The floor of a duplicate is the same INSERT by hand; that of a claim with its effect is the effect alone, in a\n" +
			"transaction. The database's inbox must never have been used: it is made a year old.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.benchOptions()
			if err != nil {
				return err
			}
			if a.cfg.benchRows < 0 {
				return usagef("--rows: %d is negative", a.cfg.benchRows)
			}
			return a.benchOn(cmd.Context(), func(config *pgxpool.Config) error {
				r, err := bench.Inbox(cmd.Context(), config, bench.InboxOptions{Options: o, Rows: a.cfg.benchRows})
				if err != nil {
					return err
				}
				return a.print(r, func(w io.Writer) { showBenchInbox(w, r) })
			})
		},
	}
	a.cfg.bind(cmd.Flags(), "concurrency", "duration", "rounds", "pool-size", "rows")
	return cmd
}

func showBenchInbox(w io.Writer, r bench.InboxResults) {
	rows := [][]string{{"", "in flight", "per s", "p50 ms", "p99 ms", "floor/s", "p50 ms", "p99 ms", "ratio", "p50 ratio"}}
	add := func(what string, r bench.Result) {
		rows = append(rows, []string{what, strconv.Itoa(r.Concurrency),
			figure(r.Engine.PerSecond), figure(r.Engine.P50), figure(r.Engine.P99),
			figure(r.Floor.PerSecond), figure(r.Floor.P50), figure(r.Floor.P99), figure(r.Ratio), figure(r.LatencyRatio)})
	}
	add("duplicate", r.Duplicate)
	for _, x := range r.Effect {
		add("claim and effect", x)
	}
	for _, x := range r.Big {
		add(fmt.Sprintf("with %d entries", r.Rows), x)
	}
	table(w, "", rows)
	fmt.Fprintf(w, "\nbatches of 50: %s messages/s, of 1: %s, ratio %s\n", figure(r.Batches.Fifty), figure(r.Batches.Single), figure(r.Batches.Ratio))
	for i, over := range r.BigOverEmpty {
		fmt.Fprintf(w, "%d entries over an empty inbox, %d in flight: %s\n", r.Rows, r.Big[i].Concurrency, figure(over))
	}
	fmt.Fprintf(w, "cleanup of %d entries: %s s; a claim beside it took %s ms at most\n", r.Cleanup.Rows, figure(r.Cleanup.Seconds), figure(r.Cleanup.ClaimMax))
}
