package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// audited is what the audit may be about.
var audited = []string{"saga", "schedule", "outbox", "inbox", "codec", "system"}

func (a *app) audit() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Read who did what, when and why", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(a.auditList())
	return cmd
}

func (a *app) auditList() *cobra.Command {
	var f pgengine.AuditFilter
	var since, until, subject string
	cmd := &cobra.Command{
		Use: "list", Short: "List what people asked of sagas, and did to schedules, dead letters, messages and keys", Args: cobra.NoArgs,
		Long: "Lists what people asked of sagas, and did to schedules, dead letters, published messages and keys, oldest first, and what\n" +
			"became of it. It is kept for good. Times are like 2026-11-23T09:00:00Z, or 2h for two hours ago.\n\n" +
			"An erasure stands under the id of the subject's key; with --subject it is found by the subject.",
		Example: "  pgsagaz audit list --since 24h\n  pgsagaz audit list --about outbox --verb drop\n  pgsagaz audit list --about schedule --thing nightly",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case f.About != "" && !slices.Contains(audited, f.About):
				return usagef("--about: %q is nothing that is audited; there are %s", f.About, strings.Join(audited, ", "))
			case f.SagaID != "" && !isID(f.SagaID):
				return usagef("--saga: %q is not the id of a saga", f.SagaID)
			case subject != "" && (f.Thing != "" || f.SagaID != ""):
				return usagef("--subject goes with neither --thing nor --saga")
			case f.Limit < 0 || f.Before < 0:
				return usagef("--limit and --before must not be negative")
			}
			if since != "" {
				if f.Since, err = moment("--since", since); err != nil {
					return err
				}
			}
			if until != "" {
				if f.Until, err = moment("--until", until); err != nil {
					return err
				}
			}
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				if subject != "" {
					key, err := codec.Find(cmd.Context(), e.Pool(), subject)
					if err != nil {
						return err
					}
					f.About, f.Thing = "codec", key.Key.String()
				}
				entries, err := e.Audit(cmd.Context(), f)
				if err != nil {
					return err
				}
				page := struct {
					Audit []pgengine.AuditEntry `json:"audit"`
					Next  int64                 `json:"next,omitempty"` // give it to --before; there may be nothing
				}{Audit: append([]pgengine.AuditEntry{}, entries...)}
				if f.Limit > 0 && len(entries) == f.Limit {
					page.Next = entries[0].ID
				}
				return a.print(page, func(w io.Writer) { showAudits(w, page.Audit, page.Next) })
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.SagaID, "saga", "", "only of the saga with this id")
	flags.StringVar(&f.About, "about", "", "only about this: "+strings.Join(audited, ", "))
	flags.StringVar(&f.Thing, "thing", "", "only of this schedule, by its name, or this dead letter, by its id")
	flags.StringVar(&subject, "subject", "", "only erasures of this subject")
	flags.StringVar(&f.Verb, "verb", "", "only this, such as cancel, drop or erase")
	flags.StringVar(&f.Actor, "who", "", "only by this one, as he calls himself")
	flags.StringVar(&since, "since", "", "only at this time or later")
	flags.StringVar(&until, "until", "", "only before this time")
	flags.IntVar(&f.Limit, "limit", 50, "the newest so many; 0: all")
	flags.Int64Var(&f.Before, "before", 0, "only those with a lower id: the page before")
	return cmd
}

func showAudits(w io.Writer, entries []pgengine.AuditEntry, next int64) {
	if len(entries) == 0 {
		fmt.Fprintln(w, "nothing")
		return
	}
	rows := [][]string{{"ID", "AT", "WHO", "ABOUT", "VERB", "ANSWER", "REASON"}}
	for _, x := range entries {
		about := strings.TrimSpace(x.About + " " + x.Thing)
		if x.SagaID != "" {
			about = x.Saga + " " + x.SagaID
		}
		verb, answer := strings.TrimSpace(x.Verb+" "+x.Step), x.Answer
		if x.Why != "" {
			answer += ": " + x.Why
		}
		rows = append(rows, []string{strconv.FormatInt(x.ID, 10), clock(x.At), x.Actor, about, verb, clip(answer, 80), orDash(clip(x.Reason, 80))})
	}
	table(w, "", rows)
	if next != 0 {
		fmt.Fprintf(w, "\nthere may be more: --before %d\n", next)
	}
}
