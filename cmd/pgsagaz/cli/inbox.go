package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (a *app) inbox() *cobra.Command {
	cmd := &cobra.Command{Use: "inbox", Short: "Look after what was consumed, and what could not be", Args: cobra.NoArgs, RunE: help}
	dead := &cobra.Command{Use: "dead", Short: "Messages that were given up", Args: cobra.NoArgs, RunE: help}
	dead.AddCommand(a.deadList(), a.deadShow(), a.deadRedrive(), a.deadDrop())
	cmd.AddCommand(a.inboxStatus(), dead, a.inboxCleanup())
	return cmd
}

// withSchema runs f with a database that this code may work on.
func (a *app) withSchema(ctx context.Context, f func(*pgxpool.Pool) error) error {
	return a.withPool(ctx, func(pool *pgxpool.Pool) error {
		if err := sql.CheckVersion(ctx, pool); err != nil {
			return err
		}
		return f(pool)
	})
}

func (a *app) inboxStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show consumers, what fails, what lies dead, and what is kept", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				s, err := d.Inbox(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(s, func(w io.Writer) { showInbox(w, s) })
			})
		},
	}
}

func showInbox(w io.Writer, s inbox.State) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	ago := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return span(time.Since(*t)) + " ago"
	}
	if len(s.Consumers) == 0 {
		p("nobody has consumed anything")
	} else {
		rows := [][]string{{"CONSUMER", "SEEN", "LAST EVENT", "LAST HOUR", "FAILING", "DEAD", "REDRIVING", "HORIZON", "RETENTION"}}
		period := func(d *time.Duration) string {
			if d == nil {
				return "-"
			}
			return span(*d)
		}
		for _, c := range s.Consumers {
			rows = append(rows, []string{
				c.Name, ago(c.SeenAt), ago(c.LastAt), strconv.FormatInt(c.LastHour, 10), strconv.FormatInt(c.Failing, 10),
				strconv.FormatInt(c.Dead, 10), strconv.FormatInt(c.Redriving, 10), period(c.Horizon), period(c.Retention),
			})
		}
		table(w, "", rows)
	}
	p("")
	p("about %d entries in %d partitions, %d of them with ids of other makes; %d MB", s.Entries, s.Partitions, s.Foreign, s.Bytes>>20)
	p("events before %s are refused", clock(s.Floor))
	if left := time.Until(s.Ceiling); left > 0 {
		p("partitions are there for %s ahead", span(left))
	} else {
		p("NO PARTITION IS THERE for today: a claim makes it (run pgsagaz inbox cleanup, or a consumer)")
	}
	if s.Late > 0 {
		p("%d partitions were made by a claim that needed them: nobody makes them ahead (run pgsagaz inbox cleanup daily)", s.Late)
	}
}

// letter is a dead letter in JSON.
type letter struct {
	ID        int64             `json:"id"`
	Consumer  string            `json:"consumer"`
	EventID   string            `json:"event_id"`
	MessageID string            `json:"message_id"`
	Source    string            `json:"source,omitempty"`
	Attempt   string            `json:"attempt,omitempty"`
	Topic     string            `json:"topic"`
	Key       string            `json:"key,omitempty"`
	Type      string            `json:"type"`
	Reason    string            `json:"reason"`
	Error     string            `json:"error"`
	Attempts  int               `json:"attempts"`
	FirstAt   time.Time         `json:"first_at"`
	DiedAt    time.Time         `json:"died_at"`
	Redrives  int               `json:"redrives"`
	Redriving bool              `json:"redriving"`
	Bytes     int               `json:"bytes"` // of the payload as it is stored
	Headers   map[string]string `json:"headers,omitempty"`
	Payload   []byte            `json:"payload_base64,omitempty"`
	Text      json.RawMessage   `json:"payload,omitempty"` // where the payload is JSON
}

func letterOf(d inbox.DeadLetter, whole bool) letter {
	m := d.Message
	l := letter{
		ID: d.ID, Consumer: d.Consumer, EventID: d.EventID, MessageID: m.ID, Source: m.Source, Attempt: m.Attempt, Topic: m.Topic, Key: m.Key,
		Type: m.Type, Reason: d.Reason, Error: d.Error, Attempts: d.Attempts, FirstAt: d.FirstAt, DiedAt: d.DiedAt,
		Redrives: d.Redrives, Redriving: d.Redriving, Bytes: d.Size,
	}
	if whole {
		l.Headers = m.Headers
		if json.Valid(m.Payload) {
			l.Text = m.Payload
		} else {
			l.Payload = m.Payload
		}
	}
	return l
}

func (a *app) deadList() *cobra.Command {
	var f inbox.DeadFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List dead letters, oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Limit < 0 {
				return usagef("--limit: %d is negative", f.Limit)
			}
			return a.withDesk(cmd.Context(), func(d desk) error {
				all, err := d.InboxLetters(cmd.Context(), f)
				if err != nil {
					return err
				}
				page := struct {
					Dead []letter `json:"dead"`
					Next int64    `json:"next,omitempty"` // give it to --after; there may be nothing
				}{Dead: []letter{}}
				for _, d := range all {
					page.Dead = append(page.Dead, letterOf(d, false))
				}
				if f.Limit > 0 && len(all) == f.Limit {
					page.Next = all[len(all)-1].ID
				}
				return a.print(page, func(w io.Writer) {
					if len(page.Dead) == 0 {
						fmt.Fprintln(w, "no dead letters")
						return
					}
					rows := [][]string{{"ID", "CONSUMER", "TYPE", "KEY", "REASON", "ATTEMPTS", "DIED", "EVENT", "ERROR"}}
					for _, l := range page.Dead {
						reason := l.Reason
						if l.Redriving {
							reason += " (redriving)"
						}
						rows = append(rows, []string{
							strconv.FormatInt(l.ID, 10), l.Consumer, orDash(clip(l.Type, 40)), orDash(clip(l.Key, 30)), reason, strconv.Itoa(l.Attempts),
							span(time.Since(l.DiedAt)) + " ago", clip(l.MessageID, 40), clip(l.Error, 80),
						})
					}
					table(w, "", rows)
					if page.Next != 0 {
						fmt.Fprintf(w, "\nthere may be more: --after %d\n", page.Next)
					}
				})
			})
		},
	}
	bindDeadFilter(cmd, &f)
	cmd.Flags().IntVar(&f.Limit, "limit", 50, "how many; 0: all")
	cmd.Flags().Int64Var(&f.After, "after", 0, "only those with greater ids: the next page")
	return cmd
}

func bindDeadFilter(cmd *cobra.Command, f *inbox.DeadFilter) {
	cmd.Flags().StringVar(&f.Consumer, "consumer", "", "only of this consumer")
	cmd.Flags().StringVar(&f.Type, "type", "", "only events of this type")
	cmd.Flags().StringVar(&f.Reason, "cause", "", "only those given up for this: attempts, terminal, 'no message', 'too old', 'from the future'")
}

func (a *app) deadShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a dead letter whole", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := deadIDs(args)
			if err != nil {
				return err
			}
			return a.withDesk(cmd.Context(), func(desk desk) error {
				d, err := desk.InboxLetter(cmd.Context(), ids[0])
				if err != nil {
					return err
				}
				return a.print(letterOf(d, true), func(w io.Writer) { showLetter(w, letterOf(d, true), d.Message.Payload) })
			})
		},
	}
}

func showLetter(w io.Writer, l letter, payload []byte) {
	p := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "dead letter %d  %s  %s\n\n", l.ID, l.Consumer, strings.ToUpper(l.Reason))
	p("event", "%s", l.MessageID)
	if l.Source != "" {
		p("source", "%s", l.Source)
	}
	p("topic", "%s", orDash(l.Topic))
	p("type", "%s", orDash(l.Type))
	p("key", "%s", orDash(l.Key))
	p("failed", "%d times, first %s", l.Attempts, clock(l.FirstAt))
	p("died", "%s (%s ago)", clock(l.DiedAt), span(time.Since(l.DiedAt)))
	p("error", "%s", l.Error)
	if l.Redrives > 0 {
		p("redriven", "%d times", l.Redrives)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Headers)) {
		p("header", "%s: %s", name, l.Headers[name])
	}
	if utf8.Valid(payload) {
		p("payload", "%s", clip(string(payload), 2000))
	} else {
		p("payload", "%d bytes (whole with --json)", len(payload))
	}
	fmt.Fprintln(w, "\nWhat now:")
	if l.Redriving {
		fmt.Fprintln(w, "  it is being redriven: a running consumer of that name takes it within seconds")
		return
	}
	fmt.Fprintln(w, "  Mend what the error tells of, then:")
	fmt.Fprintf(w, "    pgsagaz inbox dead redrive %d\n", l.ID)
	fmt.Fprintln(w, "  Or give it up for good:")
	fmt.Fprintf(w, "    pgsagaz inbox dead drop %d\n", l.ID)
}

func (a *app) deadRedrive() *cobra.Command {
	return a.deadChange("redrive", "Have dead letters handled again, each as a new attempt that takes effect once",
		"Has dead letters handled again by a running consumer of their name, within a second or two. Each is a new\n"+
			"attempt, which takes effect once; one that fails again comes back.")
}

func (a *app) deadDrop() *cobra.Command {
	return a.deadChange("drop", "Forget dead letters: their events have had no effect, and will have none", "")
}

func (a *app) deadChange(verb, short, long string) *cobra.Command {
	var f inbox.DeadFilter
	var all bool
	var by func() inbox.By
	cmd := &cobra.Command{
		Use: verb + " ID... | --all", Short: short, Long: long,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return fmt.Errorf("give ids or --all, not both")
			case !all && len(args) == 0:
				return fmt.Errorf("give the ids of dead letters, or --all")
			case !all && (f.Consumer != "" || f.Type != "" || f.Reason != ""):
				return fmt.Errorf("--consumer, --type and --cause go with --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := deadIDs(args)
			if err != nil {
				return err
			}
			return a.withDesk(cmd.Context(), func(d desk) error {
				if all {
					found, err := d.InboxLetters(cmd.Context(), f)
					if err != nil {
						return err
					}
					for _, d := range found {
						ids = append(ids, d.ID)
					}
				}
				touched, err := d.InboxDo(cmd.Context(), verb, ids, by())
				if err != nil {
					return err
				}
				out := struct {
					Command string  `json:"command"`
					IDs     []int64 `json:"ids"`
					Not     []int64 `json:"not,omitempty"` // not there, or being redriven already
				}{Command: verb, IDs: []int64{}}
				for _, id := range ids {
					if slices.Contains(touched, id) {
						out.IDs = append(out.IDs, id)
					} else {
						out.Not = append(out.Not, id)
					}
				}
				err = a.print(out, func(w io.Writer) {
					fmt.Fprintf(w, "%s: %d dead letters\n", verb, len(out.IDs))
					if len(out.Not) > 0 {
						fmt.Fprintf(w, "not there, or being redriven already: %v\n", out.Not)
					}
				})
				if err == nil && !all {
					err = unless(len(out.Not) == 0)
				}
				return err
			})
		},
	}
	bindDeadFilter(cmd, &f)
	by = a.by(cmd.Flags(), whyMeans)
	cmd.Flags().BoolVar(&all, "all", false, "all there are, or that --consumer, --type and --cause leave")
	return cmd
}

func deadIDs(args []string) (ids []int64, err error) {
	for _, arg := range args {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || id < 1 {
			return nil, usagef("%q is not the id of a dead letter: they are numbers, see pgsagaz inbox dead list", arg)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (a *app) inboxCleanup() *cobra.Command {
	var retention time.Duration
	cmd := &cobra.Command{
		Use: "cleanup", Short: "Forget old entries, and make partitions for the week to come", Args: cobra.NoArgs,
		Long: "Drops partitions of entries whose events are older than the retention, deletes old entries with ids of other\n" +
			"makes by 5,000 at a time, and makes partitions for the week to come. Nobody waits for it. Older events are\n" +
			"refused from then on. A running consumer does the same every hour.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if retention < 0 {
				return usagef("--retention: %v is negative", retention)
			}
			return a.withSchema(cmd.Context(), func(pool *pgxpool.Pool) error {
				r, err := inbox.Cleanup(cmd.Context(), pool, &inbox.CleanupOptions{Retention: retention})
				if err != nil {
					return err
				}
				return a.print(r, func(w io.Writer) {
					if r.Busy {
						fmt.Fprintln(w, "another cleanup is under way")
						return
					}
					fmt.Fprintf(w, "dropped %d partitions, deleted %d entries with ids of other makes (%.0f/s), made %d partitions ahead, in %.2f s\n",
						len(r.Dropped), r.Foreign, r.Rate, r.Made, r.Seconds)
					fmt.Fprintf(w, "events before %s are refused\n", clock(r.Floor))
				})
			})
		},
	}
	cmd.Flags().DurationVar(&retention, "retention", 0, "how long entries are kept (default: the longest that a consumer asks for, else 720h)")
	return cmd
}
