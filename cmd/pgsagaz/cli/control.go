package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// asked is what cancel, retry and resolve print as JSON.
type asked struct {
	ID      string           `json:"id"`
	Command string           `json:"command"`
	Saga    *pgengine.Status `json:"saga,omitempty"` // with --wait
}

func (a *app) sagaCancel() *cobra.Command {
	var reason string
	var follow bool
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Ask a saga to turn back: what was done is undone", Args: oneID,
		Long: "Asks a saga to turn back. Steps that have begun end first. With --wait it shows the saga once it has\n" +
			"ended; exit status 1 unless it was compensated.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				return a.ask(cmd.Context(), e, "cancel", args[0], reason, follow)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the saga's record and its undos")
	cmd.Flags().BoolVar(&follow, "wait", false, "wait for its end")
	return cmd
}

func (a *app) sagaRetry() *cobra.Command {
	var reason string
	var follow bool
	cmd := &cobra.Command{
		Use: "retry ID", Short: "Set a stuck saga going again: undos that have given up are tried anew", Args: oneID,
		Long: "Sets a stuck saga going again, once the reason is out of the way: undos that have given up are tried\n" +
			"anew, with all their attempts. With --wait it shows the saga once it has ended or is stuck again; exit\n" +
			"status 1 if it is.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				return a.ask(cmd.Context(), e, "retry", args[0], reason, follow)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&follow, "wait", false, "wait for its end")
	return cmd
}

func (a *app) ask(ctx context.Context, e *pgengine.Engine, command, id, reason string, follow bool) error {
	err := sql.InTx(ctx, e.Pool(), func(tx pgx.Tx) error {
		if command == "cancel" {
			return e.Cancel(ctx, tx, id, reason)
		}
		return e.Retry(ctx, tx, id, reason)
	})
	if err != nil {
		return err
	}
	return a.answer(ctx, e, asked{ID: id, Command: command}, follow, fmt.Sprintf("asked saga %s to %s; see: pgsagaz saga show %s",
		id, map[string]string{"cancel": "turn back", "retry": "try again"}[command], id))
}

// answer says what was asked or, with --wait, what came of it.
func (a *app) answer(ctx context.Context, e *pgengine.Engine, out asked, follow bool, text string) error {
	if !follow {
		return a.print(out, func(w io.Writer) { fmt.Fprintln(w, text) })
	}
	status, err := wait(ctx, e, out.ID)
	if err != nil {
		return fmt.Errorf("saga %s was asked to %s, and goes on: %w", out.ID, out.Command, err)
	}
	out.Saga = &status
	if err := a.printEnd(ctx, e, out, status); err != nil {
		return err
	}
	if out.Command == "cancel" {
		return unless(status.State == pgengine.Compensated)
	}
	return unless(status.State.Ended())
}

// printEnd prints out as JSON, or shows the saga that a command has waited for.
func (a *app) printEnd(ctx context.Context, e *pgengine.Engine, out any, s pgengine.Status) error {
	v, err := look(ctx, e, s)
	if err != nil {
		return err
	}
	return a.print(out, v.show)
}
