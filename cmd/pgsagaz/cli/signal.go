package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// signalled is what signal prints as JSON.
type signalled struct {
	Saga    string          `json:"saga"` // as it was named
	Signal  string          `json:"signal"`
	Key     string          `json:"key,omitempty"`
	Payload json.RawMessage `json:"payload"`
}

func (a *app) sagaSignal() *cobra.Command {
	var key string
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: "signal ID|NAME=KEY SIGNAL [JSON]", Short: "Tell a saga something that one of its steps awaits", Args: cobra.RangeArgs(2, 3),
		Long: "Sends a signal to a saga, named by its id, or by its name and the key it was started with. The payload is\n" +
			"JSON as an argument, - for standard input, or @file; without one it is {}. A signal that comes before its\n" +
			"step has begun is kept for it.",
		Example: `  pgsagaz saga signal order=order-17 approval '{"by": "Ada"}' --key mail-4711`,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := target(args[0])
			if err != nil {
				return err
			}
			sent := signalled{Saga: args[0], Signal: args[1], Key: key, Payload: json.RawMessage("{}")}
			if len(args) == 3 {
				if sent.Payload, err = a.readJSON("the payload", args[2]); err != nil {
					return err
				}
			}
			o := order{on: aSaga, verb: "signal", signal: sent.Signal, payload: sent.Payload, key: sent.Key, by: by()}
			return a.withDesk(cmd.Context(), func(d desk) error {
				if _, err := d.Do(cmd.Context(), args[0], o); err != nil {
					return err
				}
				return a.print(sent, func(w io.Writer) { fmt.Fprintf(w, "told saga %s: %s\n", sent.Saga, sent.Signal) })
			})
		},
	}
	by = a.by(cmd.Flags(), "why it is sent by hand, for the audit")
	cmd.Flags().StringVar(&key, "key", "", "of the signals of this name with this key, the saga gets the first")
	return cmd
}

// target reads how a person names a saga.
func target(named string) (pgengine.Target, error) {
	if isID(named) {
		return pgengine.ID(named), nil
	}
	if name, key, ok := strings.Cut(named, "="); ok && name != "" && key != "" {
		return pgengine.KeyOf(name, key), nil
	}
	return pgengine.Target{}, usagef("%q is neither the id of a saga nor NAME=KEY", named)
}

var outcomes = []pgengine.Outcome{pgengine.OutcomeDone, pgengine.OutcomeFailed, pgengine.OutcomeSkipped}

func (a *app) sagaResolve() *cobra.Command {
	var r pgengine.Resolution
	var result string
	var follow bool
	var by func() pgengine.By
	cmd := &cobra.Command{
		Use: "resolve ID STEP done|failed|skipped", Short: "Decide a step that waits for an operator",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return fmt.Errorf("give the id of a saga, a step and an outcome, not %d arguments", len(args))
			}
			return oneID(nil, args[:1])
		},
		Long: "Says what has become of a step that waits for an operator; saga show names such steps, and what may be\n" +
			"said of them.\n\n" +
			"  done     an undo: the step is undone, by hand or all along; else: it is done, with --result\n" +
			"  skipped  an undo: leave the step as it is; else: go on without it\n" +
			"  failed   a pivot of which nobody knew: it has not happened and will not, so turn back\n\n" +
			"With --wait it shows the saga once it has ended or is stuck again; exit status 1 if it is.",
		Example: `  pgsagaz saga resolve 0190... charge done --result '{"id": "p-17"}' --reason 'the bank says so'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, step := args[0], args[1]
			r.Outcome = pgengine.Outcome(args[2])
			if !slices.Contains(outcomes, r.Outcome) {
				return usagef("%q is no outcome: give done, failed or skipped", args[2])
			}
			if result != "" {
				if r.Outcome != pgengine.OutcomeDone {
					return usagef("--result goes with done, not with %s", r.Outcome)
				}
				var err error
				if r.Result, err = a.readJSON("--result", result); err != nil {
					return err
				}
			}
			o := order{on: aSaga, verb: "resolve", step: step, outcome: r.Outcome, result: r.Result, by: by()}
			return a.withResolver(cmd.Context(), func(d desk) error {
				if err := sensible(cmd.Context(), d, id, step, r); err != nil {
					return err
				}
				if _, err := d.Do(cmd.Context(), id, o); err != nil {
					return err
				}
				return a.answer(cmd.Context(), d, asked{ID: id, Command: "resolve"}, by(), follow,
					fmt.Sprintf("told saga %s that %s is %s", id, step, r.Outcome))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&result, "result", "", "the result of a step that is done: JSON, - for standard input, or @file")
	by = a.by(flags, "how you know, for the audit and the step's record")
	flags.BoolVar(&follow, "wait", false, "wait for its end")
	return cmd
}

// sensible refuses what the worker, which has the saga's code, would have to drop.
func sensible(ctx context.Context, d desk, id, step string, r pgengine.Resolution) error {
	s, err := d.Saga(ctx, id)
	if err != nil {
		return err
	}
	g, _, err := d.Graph(ctx, s.Name, s.Version)
	if err != nil {
		return nil //nolint:nilerr // nobody knows better: the worker decides
	}
	for _, t := range s.Steps {
		if t.Step != step || t.State != "stuck" {
			continue
		}
		possible, err := g.Answers(step, t.Direction)
		if err != nil {
			return err
		}
		if !slices.Contains(possible, r.Outcome) {
			return fmt.Errorf("step %s of saga %s can't be %s: %s", step, id, r.Outcome, whatMayBe(t.Direction, possible))
		}
		if t.Direction == pgengine.Do && r.Outcome == pgengine.OutcomeDone && r.Result == nil {
			return fmt.Errorf("step %s of saga %s is done with a result, which later steps count on: give --result", step, id)
		}
	}
	return nil
}

func whatMayBe(d pgengine.Direction, possible []pgengine.Outcome) string {
	var words []string
	for _, o := range possible {
		words = append(words, string(o))
	}
	what := "it"
	if d == pgengine.Undo {
		what = "its undo"
	}
	return what + " may be " + strings.Join(words, " or ")
}
