package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// asked is what the commands that ask something of a saga print as JSON.
type asked struct {
	ID      string               `json:"id"`
	Command string               `json:"command"`
	Audit   *pgengine.AuditEntry `json:"audit,omitempty"` // with what has become of it
	Saga    *pgengine.Status     `json:"saga,omitempty"`  // with --wait
}

const whyMeans = "why, for the audit"

// by makes the flags of who asks for something, and why.
func (a *app) by(flags *pflag.FlagSet, why string) func() pgengine.By {
	var reason string
	flags.StringVar(&reason, "reason", "", why)
	a.cfg.bind(flags, "actor")
	return func() pgengine.By { return pgengine.By{Actor: a.cfg.actor, Reason: reason} }
}

// verb is a command that asks something of a saga, or of one of its steps.
type verb struct {
	name             string
	use, short, long string
	step             int           // 0: it takes none; 1: it may; 2: it must
	means            string        // what the saga is asked to do
	asks             func() string // the verb of the order, if it is not name
}

func (a *app) command(v verb) *cobra.Command {
	var follow bool
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: v.use, Short: v.short, Long: v.long,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case v.step == 2 && len(args) != 2:
				return fmt.Errorf("give the id of a saga and a step, not %d arguments", len(args))
			case v.step == 1 && len(args) > 2:
				return fmt.Errorf("give the id of a saga and perhaps a step, not %d arguments", len(args))
			case v.step == 0 || len(args) == 0:
				return oneID(nil, args)
			}
			return oneID(nil, args[:1])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, step := args[0], ""
			if len(args) > 1 {
				step = args[1]
			}
			o := order{on: aSaga, verb: v.name, step: step, by: by()}
			if v.asks != nil {
				o.verb = v.asks()
			}
			return a.withDesk(cmd.Context(), func(d desk) error {
				if _, err := d.Do(cmd.Context(), id, o); err != nil {
					return err
				}
				text := fmt.Sprintf("asked saga %s to %s", id, v.means)
				if step != "" {
					text += " (" + step + ")"
				}
				return a.answer(cmd.Context(), d, asked{ID: id, Command: v.name}, by(), follow, text)
			})
		},
	}
	by = a.by(cmd.Flags(), "why, for the audit and the saga's record")
	cmd.Flags().BoolVar(&follow, "wait", false, "wait for its end")
	return cmd
}

const waitMeans = "With --wait it shows the saga once it has ended or is stuck; exit status 1 if it is."

func (a *app) sagaCancel() *cobra.Command {
	var leave bool
	cmd := a.command(verb{
		name: "cancel", use: "cancel ID", short: "Ask a saga to turn back: what was done is undone", means: "turn back",
		long: "Asks a saga to turn back. Steps that have begun end first. With --wait it shows the saga once it has\n" +
			"ended; exit status 1 unless it was compensated.\n\n" +
			"With --no-undo it ends without undoing anything, or stops undoing: what was done is left as it is, and each\n" +
			"undo is recorded as skipped. Its children go on by themselves.",
		asks: func() string {
			if leave {
				return "abandon"
			}
			return "cancel"
		},
	})
	cmd.Flags().BoolVar(&leave, "no-undo", false, "leave what was done as it is")
	return cmd
}

func (a *app) sagaPause() *cobra.Command {
	return a.command(verb{
		name: "pause", use: "pause ID", short: "Hold a saga up: what has begun ends, nothing else begins", means: "pause",
		long: "Holds a saga up: steps that have begun end, and nothing else begins before saga resume. Time goes on: its\n" +
			"deadline counts, and what falls due meanwhile is seen to when it is resumed.",
	})
}

func (a *app) sagaResume() *cobra.Command {
	return a.command(verb{
		name: "resume", use: "resume ID", short: "Let a paused saga go on", means: "go on", long: "Lets a paused saga go on.\n\n" + waitMeans,
	})
}

func (a *app) sagaRetry() *cobra.Command {
	return a.command(verb{
		name: "retry", use: "retry ID [STEP]", short: "Set a saga going again: what has given up is tried anew, what waits now", means: "try again", step: 1,
		long: "Sets a saga going again, once the reason is out of the way: what has given up is tried anew, with all its\n" +
			"attempts; what waits for its next attempt is tried now. With STEP, that one alone.\n\n" + waitMeans,
	})
}

func (a *app) sagaSkip() *cobra.Command {
	return a.command(verb{
		name: "skip", use: "skip ID STEP", short: "Go on past a step, or an undo, that has given up or waits", means: "go on without it", step: 2,
		long: "Goes on past a step that has given up or waits, if no later step counts on its result; or leaves out an undo\n" +
			"that has given up or waits: the step then stays as it is.\n\n" + waitMeans,
	})
}

// restarted is what restart prints as JSON.
type restarted struct {
	ID      string           `json:"id"` // of the new saga
	Of      string           `json:"of"`
	Version int              `json:"version"`
	Existed bool             `json:"existed"`
	Saga    *pgengine.Status `json:"saga,omitempty"` // with --wait
}

func (a *app) sagaRestart() *cobra.Command {
	var from []string
	var follow bool
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: "restart ID --from STEP", Short: "Start a saga that goes on where one that has ended is to begin again", Args: oneID,
		Long: "Starts a new saga over the input of one that has ended. STEP, and what comes after it, runs anew; of all other\n" +
			"steps the new saga takes over what became of them, so that it undoes them if it turns back. What the old saga has\n" +
			"done at STEP and after it, and not undone, stays and is done again. What was undone can't be taken over.\n\n" + waitMeans,
		Example: "  pgsagaz saga restart 0190... --from ship --reason 'the parcel was lost'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(from) == 0 {
				return usagef("--from is missing: the step to begin with")
			}
			o := order{on: aSaga, verb: "restart", step: from[0], steps: from[1:], by: by()}
			return a.withDesk(cmd.Context(), func(d desk) error {
				made, err := d.Do(cmd.Context(), args[0], o)
				if err != nil {
					return err
				}
				out := restarted{Of: args[0], ID: made.ID, Version: made.Version, Existed: made.Existed}
				if follow {
					status, err := d.End(cmd.Context(), out.ID)
					if err != nil {
						return err
					}
					out.Saga = &status
					if err := a.printEnd(cmd.Context(), d, out, status); err != nil {
						return err
					}
					return unless(status.State.Ended())
				}
				return a.print(out, func(w io.Writer) {
					fmt.Fprintf(w, "saga %s goes on for saga %s; see: pgsagaz saga show %s\n", out.ID, out.Of, out.ID)
				})
			})
		},
	}
	by = a.by(cmd.Flags(), whyMeans)
	cmd.Flags().StringSliceVar(&from, "from", nil, "the step to begin with; several: give it again")
	cmd.Flags().BoolVar(&follow, "wait", false, "wait for its end")
	return cmd
}

// answering is how long a command waits for a worker's answer.
const answering = 3 * time.Second

// answer says what has become of what was asked or, with --wait, how the saga has ended.
func (a *app) answer(ctx context.Context, d desk, out asked, by pgengine.By, follow bool, text string) error {
	entry, err := answerTo(ctx, d, out, by)
	if err != nil {
		return err
	}
	out.Audit = &entry
	of := entry.Answer
	if entry.Why != "" {
		of += ": " + entry.Why
	}
	good := entry.Answer == "obeyed" || entry.Answer == "already"
	switch {
	case entry.Answer == "waits" && !follow:
		of, good = "no worker has answered yet", true
	case !good && entry.Answer != "waits" || !follow:
	default:
		return a.follow(ctx, d, out)
	}
	if err := a.print(out, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\nsee: pgsagaz saga show %s\n", text, of, out.ID) }); err != nil {
		return err
	}
	return unless(good)
}

// follow waits for the saga's end, and shows it.
func (a *app) follow(ctx context.Context, d desk, out asked) error {
	status, err := d.End(ctx, out.ID)
	if err != nil {
		return fmt.Errorf("saga %s was asked to %s, and goes on: %w", out.ID, out.Command, err)
	}
	out.Saga = &status
	if err := a.printEnd(ctx, d, out, status); err != nil {
		return err
	}
	if out.Command == "cancel" {
		return unless(status.State == pgengine.Compensated)
	}
	return unless(status.State.Ended())
}

// answerTo waits for what a worker answers to what was just asked, if there is one that can.
func answerTo(ctx context.Context, d desk, out asked, by pgengine.By) (entry pgengine.AuditEntry, err error) {
	for deadline := time.Now().Add(answering); ; {
		s, err := d.Saga(ctx, out.ID)
		if err != nil {
			return entry, err
		}
		for _, x := range s.Audit { // the newest is ours
			if (x.Verb == out.Command || x.Verb == "abandon" && out.Command == "cancel") && (by.Actor == "" || x.Actor == by.Actor) && x.Reason == by.Reason {
				entry = x
			}
		}
		if entry.Answer != "waits" || time.Now().After(deadline) {
			return entry, nil
		}
		if workers, err := d.Workers(ctx, s); err != nil || len(workers) == 0 {
			return entry, err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return entry, err
		}
	}
}

// printEnd prints out as JSON, or shows the saga that a command has waited for.
func (a *app) printEnd(ctx context.Context, d desk, out any, s pgengine.Status) error {
	v, err := look(ctx, d, s)
	if err != nil {
		return err
	}
	return a.print(out, v.show)
}
