package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/outbox"
)

func (a *app) outbox() *cobra.Command {
	cmd := &cobra.Command{Use: "outbox", Short: "Show what waits for the broker, see to dead letters, publish again", Args: cobra.NoArgs, RunE: help}
	dead := &cobra.Command{Use: "dead", Short: "See to messages that the broker has rejected too often", Args: cobra.NoArgs, RunE: help}
	dead.AddCommand(a.outboxDeadList(), a.outboxDeadShow(), a.outboxDeadRedrive(), a.outboxDeadDrop())
	cmd.AddCommand(a.outboxStatus(), dead, a.outboxReplay())
	return cmd
}

func (a *app) outboxStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what is pending, who publishes it, what is stuck, and what harms the server", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				s, err := d.Outbox(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(s, func(w io.Writer) { showOutbox(w, s) })
			})
		},
	}
}

func age(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) }

func showOutbox(w io.Writer, s outbox.Status) {
	least := ""
	if s.AtLeast {
		least = "at least "
	}
	fmt.Fprintf(w, "pending    %s%d", least, s.Pending)
	if s.Pending > 0 {
		fmt.Fprintf(w, ", the oldest for %s", age(s.OldestAge))
	}
	if s.MaxPending > 0 {
		fmt.Fprintf(w, "; the limit is %d", s.MaxPending)
	}
	fmt.Fprintf(w, "\npublished  %.0f/s of late\ndead       %d\nscheduled  %d", s.Rate, s.Dead, s.Scheduled)
	if s.Scheduled > 0 {
		fmt.Fprintf(w, ", the next in %s", age(s.NextDue))
	}
	if s.Direct > 0 {
		fmt.Fprintf(w, "\ndirect     %d, published by their writers", s.Direct)
	}
	fmt.Fprintln(w)

	if len(s.Relays) == 0 {
		fmt.Fprintln(w, "\nno relay runs: nothing is published")
	} else {
		rows := [][]string{{"RELAY", "BUCKETS", "PUBLISHED", "PER SECOND", "LAST BEAT"}}
		for _, r := range s.Relays {
			beat := age(r.BeatAge) + " ago"
			if !r.Alive {
				beat += ", dead"
			}
			rows = append(rows, []string{r.Name, strconv.Itoa(r.Buckets), strconv.FormatInt(r.Published, 10), fmt.Sprintf("%.0f", r.Rate), beat})
		}
		fmt.Fprintln(w)
		table(w, "", rows)
	}
	if len(s.Topics) > 0 {
		rows := [][]string{{"TOPIC", "PENDING", "OLDEST"}}
		for _, t := range s.Topics {
			rows = append(rows, []string{t.Topic, strconv.FormatInt(t.Pending, 10), age(t.OldestAge)})
		}
		fmt.Fprintln(w)
		table(w, "", rows)
	}
	if len(s.Stuck) > 0 {
		rows := [][]string{{"STUCK KEY", "TOPIC", "WAITING", "ATTEMPTS", "NEXT", "ERROR"}}
		for _, k := range s.Stuck {
			next := "in " + age(k.NextIn)
			if k.NextIn < 0 {
				next = "now"
			}
			if k.Blocked {
				next = "when you redrive or drop it"
			}
			rows = append(rows, []string{orDash(clip(k.Key, 40)), k.Topic, strconv.Itoa(k.Waiting), strconv.Itoa(k.Attempts), next, clip(k.Error, 60)})
		}
		fmt.Fprintln(w)
		table(w, "", rows)
	}
	rows := [][]string{{"SLOT", "SIZE", ""}}
	for _, p := range s.Slots {
		current := ""
		if p.Current {
			current = "current, for " + age(p.CurrentAge)
		}
		rows = append(rows, []string{strconv.Itoa(p.Slot), fmt.Sprintf("%.1f MB", float64(p.Bytes)/(1<<20)), current})
	}
	fmt.Fprintln(w)
	table(w, "", rows)
	for _, warning := range s.Guards.Warnings {
		fmt.Fprintln(w, "warning:", warning)
	}
}

func (a *app) outboxDeadList() *cobra.Command {
	var f outbox.DeadFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Limit < 0 || f.Before < 0 {
				return usagef("--limit and --before must not be negative")
			}
			return a.withDesk(cmd.Context(), func(d desk) error {
				list, err := d.OutboxLetters(cmd.Context(), f)
				if err != nil {
					return err
				}
				if list == nil {
					list = []outbox.Dead{}
				}
				return a.print(map[string]any{"dead": list}, func(w io.Writer) {
					if len(list) == 0 {
						fmt.Fprintln(w, "no dead letters")
						return
					}
					rows := [][]string{{"ID", "TOPIC", "KEY", "TYPE", "DIED", "ATTEMPTS", "KEY WAITS", "ERROR"}}
					for _, d := range list {
						waits := "no"
						if d.Holds {
							waits = "yes"
						}
						rows = append(rows, []string{strconv.FormatInt(d.ID, 10), d.Topic, orDash(clip(d.Key, 30)), d.Type, span(time.Since(d.DiedAt)) + " ago",
							strconv.Itoa(d.Attempts), waits, clip(d.Error, 60)})
					}
					table(w, "", rows)
				})
			})
		},
	}
	cmd.Flags().StringVar(&f.Topic, "topic", "", "only those of this topic")
	cmd.Flags().StringVar(&f.Key, "key", "", "only those of this key")
	cmd.Flags().Int64Var(&f.Before, "before", 0, "only those with a lower id: the next page")
	cmd.Flags().IntVar(&f.Limit, "limit", 50, "how many; 0: all")
	return cmd
}

// oneDead is the check of commands that act on one dead letter.
func oneDead(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give the id of one dead letter, not %d arguments", len(args))
	}
	if n, err := strconv.ParseInt(args[0], 10, 64); err != nil || n < 1 {
		return fmt.Errorf("%q is not the id of a dead letter", args[0])
	}
	return nil
}

func deadID(args []string) int64 {
	n, _ := strconv.ParseInt(args[0], 10, 64) // oneDead has looked
	return n
}

func (a *app) outboxDeadShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a dead letter with its headers and payload", Args: oneDead,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDesk(cmd.Context(), func(desk desk) error {
				d, err := desk.OutboxLetter(cmd.Context(), deadID(args))
				if err != nil {
					return err
				}
				return a.print(d, func(w io.Writer) {
					rows := [][]string{
						{"id", strconv.FormatInt(d.ID, 10)}, {"event", d.EventID.String()}, {"topic", d.Topic}, {"key", orDash(d.Key)}, {"type", d.Type},
						{"routing key", d.RoutingKey}, {"saga", orDash(d.SagaID)}, {"step", orDash(d.Step)}, {"written", d.CreatedAt.Format(time.RFC3339)},
						{"died", d.DiedAt.Format(time.RFC3339)}, {"attempts", strconv.Itoa(d.Attempts)}, {"error", d.Error},
					}
					for name, value := range d.Headers {
						rows = append(rows, []string{"header " + name, value})
					}
					table(w, "", rows)
					fmt.Fprintf(w, "payload, %d bytes:\n%s\n", d.Size, d.Payload)
				})
			})
		},
	}
}

func (a *app) outboxDeadRedrive() *cobra.Command {
	var by func() outbox.By
	cmd := &cobra.Command{
		Use: "redrive ID", Short: "Give a dead letter another chance", Args: oneDead,
		Long: "Publishes a dead letter again, under the same event id. Where its key waits for it, it goes first and the\n" +
			"order of the key is kept. Where the key has gone on, it may arrive after later messages: the answer says so.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				done, err := d.Do(cmd.Context(), args[0], order{on: aDeadMessage, verb: "redrive", by: by()})
				if err != nil {
					return err
				}
				r := done.Redriven
				return a.print(r, func(w io.Writer) {
					if r.Ordered {
						fmt.Fprintf(w, "message %d goes again, in the order of its key\n", r.ID)
					} else {
						fmt.Fprintf(w, "message %d goes again; later messages of its key may have left before it\n", r.ID)
					}
				})
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	return cmd
}

func (a *app) outboxDeadDrop() *cobra.Command {
	var yes bool
	var by func() outbox.By
	cmd := &cobra.Command{
		Use: "drop ID", Short: "Forget a dead letter; a key that waits for it goes on", Args: oneDead,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usagef("the message is lost for good then; say --yes")
			}
			return a.withDesk(cmd.Context(), func(d desk) error {
				if _, err := d.Do(cmd.Context(), args[0], order{on: aDeadMessage, verb: "drop", by: by()}); err != nil {
					return err
				}
				return a.print(map[string]int64{"dropped": deadID(args)}, func(w io.Writer) { fmt.Fprintf(w, "dropped %d\n", deadID(args)) })
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	cmd.Flags().BoolVar(&yes, "yes", false, "yes, forget it")
	return cmd
}

func (a *app) outboxReplay() *cobra.Command {
	var from, to, topic string
	var by func() outbox.By
	cmd := &cobra.Command{
		Use: "replay", Short: "Publish again what has been published, marked as replayed", Args: cobra.NoArgs,
		Long: "Publishes again what is still retained: in the archive, if relays keep one (worker --keep-messages), and for a while\n" +
			"in the outbox itself. Events keep their ids and are marked. Times are like 2026-11-23T09:00:00Z, or 2h for two hours ago.",
		Example: "  pgsagaz outbox replay --from 2h --topic orders.shipped\n  pgsagaz outbox replay --from 2026-11-23T09:00:00Z --to 2026-11-23T10:00:00Z",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := outbox.ReplayFilter{Topic: topic}
			var err error
			if f.From, err = moment("--from", from); err != nil {
				return err
			}
			if to != "" {
				if f.To, err = moment("--to", to); err != nil {
					return err
				}
				if !f.From.Before(f.To) {
					return usagef("--from %s is not before --to %s", from, to)
				}
			}
			return a.withSchema(cmd.Context(), func(pool *pgxpool.Pool) error {
				n, err := outbox.Replay(cmd.Context(), pool, f, by())
				if err != nil {
					return err
				}
				return a.print(map[string]int{"replayed": n}, func(w io.Writer) { fmt.Fprintf(w, "%d messages are published again\n", n) })
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	cmd.Flags().StringVar(&from, "from", "", "written at this time or later; needed")
	cmd.Flags().StringVar(&to, "to", "", "written before this time (default: now)")
	cmd.Flags().StringVar(&topic, "topic", "", "only this topic")
	return cmd
}

// moment reads a time, or how long ago it was.
func moment(flag, text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, usagef("%s: %q is neither a time like 2026-11-23T09:00:00Z nor a duration like 2h", flag, text)
}

// publisher opens the broker that --broker names: one of the program's own, or one that everybody has.
func (a *app) publisher(ctx context.Context) (outbox.Publisher, error) {
	open := func() (outbox.Publisher, error) { return openPublisher(a.cfg.broker, a.logger(slog.LevelInfo)) }
	scheme, _, _ := strings.Cut(a.cfg.broker, ":")
	if own := a.Publishers[scheme]; own != nil {
		open = func() (outbox.Publisher, error) { return own(ctx, a.cfg.broker) }
	}
	p, err := open()
	if err != nil {
		return nil, &usageError{fmt.Errorf("--broker: %w", err)}
	}
	return p, nil
}
