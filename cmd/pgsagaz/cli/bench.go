package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/bench"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

func (a *app) bench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure sagas against the least that any durable implementation must do",
		Long: "Measures on the database given, which it migrates, or on a Postgres of its own with full durability.\n" +
			"Machines are noisy: every figure stands beside a floor that was measured in turns with it.",
	}
	saga := &cobra.Command{
		Use: "saga", Short: "Chains of TxSteps with one INSERT each, from start to end, against the same by hand", Args: cobra.NoArgs,
		Long: "The floor is what one would write by hand: for each step BEGIN, the INSERT, one state write, COMMIT.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.benchOptions()
			if err != nil {
				return err
			}
			return a.benchOn(cmd.Context(), func(config *pgxpool.Config) error {
				results, err := bench.Saga(cmd.Context(), config, o)
				if err != nil {
					return err
				}
				return errors.Join(a.print(results, func(w io.Writer) { pairs(w, "sagas/s", results) }), a.atLeast(results))
			})
		},
	}
	start := &cobra.Command{
		Use: "start", Short: "Starts alone, one a transaction and 1,000, against the same rows by hand", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.benchOptions()
			if err != nil {
				return err
			}
			return a.benchOn(cmd.Context(), func(config *pgxpool.Config) error {
				results, err := bench.Start(cmd.Context(), config, o)
				if err != nil {
					return err
				}
				return errors.Join(a.print(results, func(w io.Writer) { pairs(w, "starts/s", results) }), a.atLeast(results))
			})
		},
	}
	wake := &cobra.Command{
		Use: "wake", Short: "The way from the commit of a start to the first step, between processes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.benchOptions()
			if err != nil {
				return err
			}
			return a.benchOn(cmd.Context(), func(config *pgxpool.Config) error {
				results, err := bench.Wakes(cmd.Context(), config, o)
				if err != nil {
					return err
				}
				return a.print(results, func(w io.Writer) {
					rows := [][]string{{"woken by", "p50 ms", "p99 ms", "samples"}}
					for _, r := range results {
						rows = append(rows, []string{r.How, figure(r.P50), figure(r.P99), strconv.Itoa(r.Samples)})
					}
					table(w, "", rows)
				})
			})
		},
	}
	box := &cobra.Command{
		Use: "outbox [" + strings.Join(bench.OutboxParts, "|") + "]...", Short: "Messages, from their commit to a broker in memory",
		Args: cobra.OnlyValidArgs, ValidArgs: bench.OutboxParts,
		RunE: func(cmd *cobra.Command, parts []string) error {
			o, err := a.benchOptions()
			if err != nil {
				return err
			}
			return a.benchOn(cmd.Context(), func(config *pgxpool.Config) error {
				results, err := bench.Outbox(cmd.Context(), config, parts, bench.OutboxOptions{Options: o, Idle: a.cfg.benchIdle})
				if err != nil {
					return err
				}
				return a.print(results, func(w io.Writer) {
					rows := [][]string{{"", "per second", "floor", "ratio", "p50 ms", "p99 ms", "table MB", "client CPU %", "server CPU %", "what"}}
					for _, r := range results {
						rows = append(rows, []string{r.Name, figureOrDash(r.PerSecond), figureOrDash(r.Floor), figureOrDash(r.Ratio),
							figureOrDash(r.P50), figureOrDash(r.P99), figureOrDash(float64(r.TableBytes) / (1 << 20)),
							figureOrDash(r.ClientCPU), figureOrDash(r.ServerCPU), r.What})
					}
					table(w, "", rows)
					for _, r := range results {
						if len(r.TableOverTime) > 0 {
							fmt.Fprintf(w, "\n%s: table MB over time:", r.Name)
							for _, size := range r.TableOverTime {
								fmt.Fprintf(w, " %.0f", float64(size)/(1<<20))
							}
							fmt.Fprintln(w)
						}
					}
				})
			})
		},
	}
	a.cfg.bind(box.Flags(), "duration", "rounds", "idle")
	a.cfg.bind(saga.Flags(), "steps", "concurrency", "duration", "rounds", "pool-size", "at-least", "profile")
	a.cfg.bind(start.Flags(), "concurrency", "duration", "rounds", "pool-size", "at-least", "profile")
	a.cfg.bind(wake.Flags(), "duration")
	cmd.AddCommand(saga, start, wake, box, a.benchInbox(), a.benchArchive())
	return cmd
}

// pairs prints figures beside their floors, and then what each saga costs.
func pairs(w io.Writer, unit string, results []bench.Result) {
	rows := [][]string{{"", "in flight", unit, "p50 ms", "p99 ms", "floor/s", "p50 ms", "p99 ms", "ratio", "p50 ratio"}}
	costs := [][]string{{"each takes", "in flight", "round trips", "statements", "transactions", "WAL kB", "client CPU ms", "server CPU ms"}}
	cost := func(name string, concurrency int, c bench.Cost) {
		costs = append(costs, []string{name, strconv.Itoa(concurrency), figure(c.RoundTrips), figure(c.Statements), figure(c.Transactions),
			figure(c.WALBytes / 1000), figure(c.ClientCPU), figureOrDash(c.ServerCPU)})
	}
	for _, r := range results {
		rows = append(rows, []string{r.Name, strconv.Itoa(r.Concurrency),
			figure(r.Engine.PerSecond), figure(r.Engine.P50), figure(r.Engine.P99),
			figure(r.Floor.PerSecond), figure(r.Floor.P50), figure(r.Floor.P99), figure(r.Ratio), figure(r.LatencyRatio)})
		cost(r.Name, r.Concurrency, r.EngineCost)
		cost(r.Name+": floor", r.Concurrency, r.FloorCost)
	}
	table(w, "", rows)
	fmt.Fprintln(w)
	table(w, "", costs)
}

// atLeast says which ratios are below the one that was asked for.
func (a *app) atLeast(results []bench.Result) error {
	var low []string
	for _, r := range results {
		if r.Ratio < a.cfg.benchAtLeast {
			low = append(low, fmt.Sprintf("%s, %d in flight: %s of its floor", r.Name, r.Concurrency, figure(r.Ratio)))
		}
	}
	if len(low) > 0 {
		return fmt.Errorf("less than %s (--at-least): %s", figure(a.cfg.benchAtLeast), strings.Join(low, "; "))
	}
	return nil
}

func figure(f float64) string { return strconv.FormatFloat(f, 'f', 2, 64) }

func figureOrDash(f float64) string {
	if f == 0 {
		return "-"
	}
	return figure(f)
}

func (a *app) benchOptions() (bench.Options, error) {
	o := bench.Options{Steps: a.cfg.benchSteps, Duration: a.cfg.benchDuration, Rounds: a.cfg.benchRounds, Profile: a.cfg.benchProfile, Logger: a.logger(slog.LevelWarn)}
	if !a.cfg.json {
		o.Progress = func(s string) { fmt.Fprintln(a.Stderr, s) }
	}
	for _, s := range a.cfg.benchConcurrency {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 10_000 {
			return o, usagef("--concurrency: %q is not a number between 1 and 10000", s)
		}
		o.Concurrency = append(o.Concurrency, n)
	}
	switch {
	case o.Steps < 0 || o.Steps > 1000:
		return o, usagef("--steps: %d is not between 1 and 1000", o.Steps)
	case o.Duration < 0 || o.Rounds < 0 || a.cfg.benchIdle < 0:
		return o, usagef("--duration, --rounds and --idle must not be negative")
	}
	return o, nil
}

// benchOn runs f on the database given, or on one of its own that is as durable as a real one.
func (a *app) benchOn(ctx context.Context, f func(*pgxpool.Config) error) (err error) {
	if a.cfg.databaseURL == "" {
		server, err2 := localpg.Start(ctx, &localpg.Options{
			Download: true, CacheDir: demoCache(), Durable: true, Logger: a.logger(slog.LevelWarn),
			Settings: map[string]string{"pg_stat_statements.track_planning": strconv.FormatBool(a.cfg.benchProfile != "")}, // nothing, if it is not there
		})
		if err2 != nil {
			return err2
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err = errors.Join(err, server.Stop(ctx))
		}()
		a.cfg.databaseURL = server.URL()
	}
	config, err := a.poolConfig()
	if err != nil {
		return err
	}
	if a.cfg.poolSize > 0 {
		config.MaxConns = int32(a.cfg.poolSize)
	}
	a.cfg.lease = 5 * time.Second // the worker's default
	a.limitIdle(config)
	if err := sql.Migrate(ctx, config.ConnConfig, &sql.MigrateOptions{Logger: a.logger(slog.LevelWarn)}); err != nil {
		return err
	}
	return f(config)
}
