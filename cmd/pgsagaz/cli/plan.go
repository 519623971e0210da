package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// withDefinitions runs f with an engine that knows the program's own sagas and, if there is a database,
// those that are registered in it.
func (a *app) withDefinitions(ctx context.Context, f func(*pgengine.Engine) error) error {
	cfg := pgengine.Config{Sagas: a.Sagas, Logger: a.logger(slog.LevelWarn), NoWake: true}
	if a.cfg.databaseURL == "" {
		engine, err := pgengine.New(nil, cfg)
		if err != nil {
			return err
		}
		return f(engine)
	}
	return a.withPool(ctx, func(pool *pgxpool.Pool) error {
		if err := sql.CheckVersion(ctx, pool); err != nil {
			return err
		}
		engine, err := pgengine.New(pool, cfg)
		if err != nil {
			return err
		}
		return f(engine)
	})
}

func (a *app) sagaPlan() *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use: "plan NAME", Short: "Show what a saga would do, and what becomes of it in every fault, without running it", Args: cobra.ExactArgs(1),
		Long: "Shows what a definition amounts to: the order of its steps, the critical path, how many run at once, in\n" +
			"which order it is undone, what can't be, and for every step what happens when it fails, when nobody knows\n" +
			"whether it has happened, and when its undo fails. Nothing is executed. The definition is the one that is\n" +
			"registered in the database or, if it knows none or there is none, the one this program was built with.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if version < 0 {
				return usagef("--version must not be negative")
			}
			return a.withGraphs(cmd.Context(), func(of graphs) error {
				g, found, err := of.Graph(cmd.Context(), args[0], version)
				if err != nil {
					return err
				}
				p, err := g.Outline()
				if err != nil {
					return fmt.Errorf("the registered definition of saga %s version %d: %w", args[0], found, err)
				}
				p.Name, p.Version = args[0], found
				return a.print(p, func(w io.Writer) { showPlan(w, p) })
			})
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "its version (default: the highest that a live worker has)")
	return cmd
}

func showPlan(w io.Writer, p pgengine.Plan) {
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	say("saga %s/%d: %s in %s, at most %d at once", p.Name, p.Version, count(len(p.Order), "step"), count(len(p.Layers), "layer"), p.Width)
	say("")
	for i, layer := range p.Layers {
		say("  %3d  %s", i+1, strings.Join(layer, ", "))
	}
	say("")
	head := [][]string{
		{"critical path", strings.Join(p.CriticalPath, " > ")},
		{"widest", strings.Join(p.Widest, ", ")},
		{"undone", orDash(groups(p.UndoOrder))},
	}
	for _, row := range []struct{ name, value string }{{"pivot", p.Pivot}, {"output", p.Output}} {
		if row.value != "" {
			head = append(head, []string{row.name, row.value})
		}
	}
	if len(p.Places) > 1 || p.Places[0].Queue != "default" || p.Places[0].Priority > 1 {
		for i, at := range p.Places {
			name := "runs in"
			if i > 0 {
				name = ""
			}
			head = append(head, []string{name, fmt.Sprintf("queue %s, priority %d: %s", at.Queue, at.Priority, strings.Join(at.Steps, ", "))})
		}
	}
	if p.Timeout > 0 {
		head = append(head, []string{"timeout", p.Timeout.String()})
	}
	head = append(head, []string{"other branches", p.Strategy + ": " + strategyMeans(p.Strategy)})
	table(w, "  ", head)
	showNotes(w, "Never undone:", p.NeverUndone)
	showNotes(w, "Note:", p.Notes)
	say("")
	say("If a step goes wrong as late as it can, when all is done that does not come after it:")
	table(w, "  ", faultRows(p.Faults))
}

func showNotes(w io.Writer, title string, notes []pgengine.StepNote) {
	if len(notes) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+title)
	var rows [][]string
	for _, n := range notes {
		rows = append(rows, []string{n.Step, n.Note})
	}
	table(w, "  ", rows)
}

// faultRows is the fault matrix, without what can't happen.
func faultRows(faults []pgengine.Fault) [][]string {
	rows := [][]string{{"STEP", "FAULT", "ENDS", "UNDONE", "STAYS", "WHEN"}}
	for _, f := range faults {
		if f.Cannot != "" {
			continue
		}
		when := f.When
		if f.Case != "" {
			when += "; " + f.Case
		}
		rows = append(rows, append([]string{f.Step, string(f.Kind)}, append(courseCells(f.Course), when)...))
		for _, answer := range f.Answers {
			said := fmt.Sprintf("an operator says %s of %s", answer.Outcome, strings.Join(f.Asked, ", "))
			rows = append(rows, append([]string{"", ""}, append(courseCells(answer.Course), said)...))
		}
	}
	return rows
}

func courseCells(c pgengine.Course) []string {
	return []string{string(c.End), orDash(clip(groups(c.Undone), 60)), orDash(clip(strings.Join(c.Stays, ", "), 40))}
}

// groups writes steps in order; those of one group go at once.
func groups(of [][]string) string {
	var words []string
	for _, g := range of {
		words = append(words, strings.Join(g, ", "))
	}
	return strings.Join(words, " > ")
}

// strategyMeans says what becomes of steps that are under way in other branches when a saga turns back.
func strategyMeans(s string) string {
	means := "they end by themselves"
	if grace, ok := strings.CutPrefix(s, "fail fast after "); ok {
		means = "they are cut off after " + grace
	} else if s == pgengine.FailFast.String() {
		means = "they are cut off at once"
	}
	return means + "; what they have done is undone"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (a *app) sagaGraph() *cobra.Command {
	var version int
	cmd := &cobra.Command{
		Use: "graph NAME|ID", Short: "Draw a saga as a Mermaid flowchart; of one saga, with what became of it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if version < 0 {
				return usagef("--version must not be negative")
			}
			if isID(args[0]) {
				return a.graphOf(cmd.Context(), args[0])
			}
			return a.withGraphs(cmd.Context(), func(of graphs) error {
				p, found, err := of.Graph(cmd.Context(), args[0], version)
				if err != nil {
					return err
				}
				out := struct {
					Name    string `json:"name"`
					Version int    `json:"version"`
					pgengine.Graph
					Timeout time.Duration `json:"timeout,omitempty"` // in nanoseconds
					Mermaid string        `json:"mermaid"`
				}{args[0], found, p, p.Timeout, p.Mermaid()}
				return a.print(out, func(w io.Writer) { fmt.Fprint(w, out.Mermaid) })
			})
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "its version (default: the highest that a live worker has)")
	return cmd
}

// graphOf draws one saga, with what became of it.
func (a *app) graphOf(ctx context.Context, id string) error {
	return a.withDesk(ctx, func(d desk) error {
		s, err := d.Saga(ctx, id)
		if err != nil {
			return err
		}
		p, _, err := d.Graph(ctx, s.Name, s.Version)
		if err != nil {
			return err
		}
		out := struct {
			ID      string         `json:"id"`
			Name    string         `json:"name"`
			Version int            `json:"version"`
			State   pgengine.State `json:"state"`
			Mermaid string         `json:"mermaid"`
		}{s.ID, s.Name, s.Version, s.State, p.MermaidOf(s)}
		return a.print(out, func(w io.Writer) { fmt.Fprint(w, out.Mermaid) })
	})
}
