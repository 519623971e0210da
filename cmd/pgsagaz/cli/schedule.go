package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
	_ "time/tzdata" // zones are known on machines that have no list of them, too

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (a *app) schedule() *cobra.Command {
	cmd := &cobra.Command{Use: "schedule", Short: "Start sagas by the clock", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(a.scheduleList(), a.scheduleShow(), a.scheduleAdd(),
		a.scheduleDo("pause", "Start nothing by a schedule until it is resumed", "paused %s; see: pgsagaz schedule resume %[1]s"),
		a.scheduleDo("resume", "Go on with a paused schedule; the slots of the pause are left out", "%s goes on"),
		a.scheduleRemove())
	return cmd
}

// oneSchedule is the check of commands that are about one schedule.
func oneSchedule(_ *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return fmt.Errorf("give the name of one schedule, not %d arguments", len(args))
	}
	return nil
}

func (a *app) scheduleList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List schedules, and when each is due", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				list, err := d.Schedules(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(map[string]any{"schedules": list}, func(w io.Writer) {
					if len(list) == 0 {
						fmt.Fprintln(w, "no schedules")
						return
					}
					rows := [][]string{{"NAME", "CRON", "ZONE", "SAGA", "CATCH UP", "NEXT", "LAST", "ERROR"}}
					for _, s := range list {
						rows = append(rows, []string{s.Name, s.Cron, s.Zone, s.Saga, string(s.CatchUp), nextOf(s), slotOf(s, s.Last), orDash(clip(s.Error, 60))})
					}
					table(w, "", rows)
				})
			})
		},
	}
}

func nextOf(s pgengine.ScheduleStatus) string {
	if s.Paused != nil {
		return "paused"
	}
	if s.Next == nil {
		return "never"
	}
	return slotOf(s, s.Next)
}

// slotOf is a time as the schedule's zone shows it.
func slotOf(s pgengine.ScheduleStatus, at *time.Time) string {
	if at == nil {
		return "-"
	}
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		zone = time.UTC
	}
	return at.In(zone).Format("2006-01-02 15:04:05 -07:00")
}

func (a *app) scheduleShow() *cobra.Command {
	var coming int
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a schedule, and its next slots", Args: oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			if coming < 0 || coming > 1000 {
				return usagef("--coming: %d is not between 0 and 1000", coming)
			}
			return a.withDesk(cmd.Context(), func(d desk) error {
				out := struct {
					pgengine.ScheduleStatus
					Coming []time.Time `json:"coming"` // its next slots, if it is not paused
				}{Coming: []time.Time{}}
				var err error
				if out.ScheduleStatus, err = d.Schedule(cmd.Context(), args[0]); err != nil {
					return err
				}
				s := out.ScheduleStatus
				if s.Next != nil {
					slots, err := s.Coming(s.Next.Add(-time.Nanosecond), coming)
					if err != nil {
						return err
					}
					out.Coming = append(out.Coming, slots...)
				}
				return a.print(out, func(w io.Writer) {
					rows := [][]string{
						{"schedule", s.Name}, {"cron", s.Cron}, {"zone", s.Zone}, {"saga", s.Saga}, {"input", clip(string(s.Input), 200)},
						{"catch up", fmt.Sprintf("%s, %d at most; on time for %s", s.CatchUp, s.Most, span(s.Grace))},
						{"next", nextOf(s)}, {"last", strings.TrimSpace(slotOf(s, s.Last) + "  " + s.LastSaga)},
					}
					if s.SlotField != "" {
						rows = append(rows, []string{"slot field", s.SlotField})
					}
					if len(s.Tags) > 0 {
						rows = append(rows, []string{"tags", strings.Join(s.Tags, ", ")})
					}
					if s.Timeout > 0 {
						rows = append(rows, []string{"timeout", s.Timeout.String()})
					}
					if s.Error != "" {
						rows = append(rows, []string{"error", s.Error})
					}
					table(w, "", rows)
					if len(out.Coming) > 0 {
						fmt.Fprintln(w, "\ncoming")
					}
					for i := range out.Coming {
						fmt.Fprintln(w, "  "+slotOf(s, &out.Coming[i]))
					}
				})
			})
		},
	}
	cmd.Flags().IntVar(&coming, "coming", 5, "how many of its next slots to show")
	return cmd
}

func (a *app) scheduleAdd() *cobra.Command {
	var s pgengine.Schedule
	var saga, input, catchUp string
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: "add NAME --cron EXPRESSION --saga NAME --input JSON", Short: "Add a schedule, or change the one of this name", Args: oneSchedule,
		Long: "Adds a schedule: at each time that the expression names, on the clocks of the zone, one saga is started,\n" +
			"whichever worker comes first. The expression has five fields (minute, hour, day of the month, month, day of\n" +
			"the week), or six with the second in front. The input is JSON as an argument, - for standard input, or @file.",
		Example: `  pgsagaz schedule add nightly --cron '0 3 * * *' --zone Europe/Berlin --saga report --input '{"of": "sales"}'` + "\n" +
			`  pgsagaz schedule add prices --cron '*/15 * * * *' --saga prices --input '{}' --catch-up once`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Name, s.CatchUp, s.By = args[0], pgengine.CatchUp(catchUp), by()
			switch {
			case s.Cron == "":
				return usagef("--cron is missing")
			case saga == "":
				return usagef("--saga is missing")
			case input == "":
				return usagef("--input is missing: give JSON, - for standard input, or @file")
			}
			raw, err := a.readJSON("--input", input)
			if err != nil {
				return err
			}
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				err := sql.InTx(cmd.Context(), e.Pool(), func(tx pgx.Tx) error { return e.ScheduleJSON(cmd.Context(), tx, saga, raw, s) })
				if err != nil {
					return err
				}
				status, err := e.GetSchedule(cmd.Context(), s.Name)
				if err != nil {
					return err
				}
				return a.print(status, func(w io.Writer) { fmt.Fprintf(w, "%s: next %s\n", status.Name, nextOf(status)) })
			})
		},
	}
	flags := cmd.Flags()
	by = a.by(flags, whyMeans)
	flags.StringVar(&s.Cron, "cron", "", "when: five fields, or six with the second in front, or @daily and the like")
	flags.StringVar(&s.Zone, "zone", "UTC", "the time zone of --cron, as the IANA names it")
	flags.StringVar(&saga, "saga", "", "the name of the sagas to start")
	flags.StringVar(&input, "input", "", "their input: JSON, - for standard input, or @file")
	flags.StringVar(&s.SlotField, "slot-field", "", "a field of the input that is set to the slot's time")
	flags.StringVar(&catchUp, "catch-up", string(pgengine.CatchUpSkip), "what becomes of slots that were missed: skip, once or all")
	flags.IntVar(&s.Most, "most", 100, "how many sagas to start at most when they are late")
	flags.DurationVar(&s.Grace, "grace", time.Minute, "how late a slot may be and still be on time")
	flags.StringArrayVar(&s.Tags, "tag", nil, "a tag of its sagas; may be repeated")
	flags.DurationVar(&s.Timeout, "timeout", 0, "of each saga (default: the saga's own)")
	return cmd
}

// scheduleDo is a command that does one thing to a schedule.
func (a *app) scheduleDo(use, short, said string) *cobra.Command {
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: use + " NAME", Short: short, Args: oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDesk(cmd.Context(), func(d desk) error {
				if _, err := d.Do(cmd.Context(), args[0], order{on: aSchedule, verb: use, by: by()}); err != nil {
					return err
				}
				return a.print(map[string]string{"name": args[0], "command": use}, func(w io.Writer) { fmt.Fprintf(w, said+"\n", args[0]) })
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	return cmd
}

func (a *app) scheduleRemove() *cobra.Command {
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: "rm NAME", Short: "Remove a schedule; sagas that it has started go on", Args: oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				err := sql.InTx(cmd.Context(), e.Pool(), func(tx pgx.Tx) error { return e.Unschedule(cmd.Context(), tx, args[0], by()) })
				if err != nil {
					return err
				}
				return a.print(map[string]string{"name": args[0], "command": "rm"}, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", args[0]) })
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	return cmd
}
