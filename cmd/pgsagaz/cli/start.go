package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

func isID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil && len(s) == 36
}

// started is what start prints as JSON.
type started struct {
	ID      string           `json:"id"`
	Name    string           `json:"name"`
	Version int              `json:"version"`
	Existed bool             `json:"existed"`        // the key was known: this is the saga of before
	Saga    *pgengine.Status `json:"saga,omitempty"` // with --wait
}

func (a *app) sagaStart() *cobra.Command {
	var input string
	var follow bool
	var o pgengine.StartOptions
	cmd := &cobra.Command{
		Use: "start NAME --input JSON", Short: "Start a saga that a worker has registered", Args: cobra.ExactArgs(1),
		Long: "Starts a saga by name, at the highest version that a live worker has. The input is JSON as an argument,\n" +
			"- for standard input, or @file. With --wait it shows the saga once it has ended; exit status 1 unless it\n" +
			"has completed.",
		Example: `  pgsagaz saga start order --input '{"id": "17", "cents": 900}' --key order-17 --wait`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Timeout < 0 || o.Version < 0 {
				return usagef("--timeout and --saga-version must not be negative")
			}
			if input == "" {
				return usagef("--input is missing: give JSON, - for standard input, or @file")
			}
			raw, err := a.readJSON("--input", input)
			if err != nil {
				return err
			}
			flush, err := a.openTraces(cmd.Context(), a.logger(slog.LevelWarn))
			if err != nil {
				return err
			}
			defer flush()
			return a.withEngine(cmd.Context(), func(e *pgengine.Engine) error {
				return a.start(cmd.Context(), e, args[0], raw, &o, follow)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&input, "input", "", "the input: JSON, - for standard input, or @file")
	flags.StringVar(&o.Key, "key", "", "start only once for this key; a second start gives the first one's saga")
	flags.StringArrayVar(&o.Tags, "tag", nil, "a tag to find the saga by; may be repeated")
	flags.DurationVar(&o.Timeout, "timeout", 0, "turn back if it has not ended by then (default: the saga's own)")
	flags.IntVar(&o.Version, "saga-version", 0, "its version (default: the highest that a live worker has)")
	flags.StringVar(&o.Subject, "subject", "", "whose data it is about, if payloads are encrypted")
	flags.BoolVar(&follow, "wait", false, "wait for its end")
	a.cfg.bind(flags, "otlp-endpoint", "otlp-headers", "otlp-service", "otlp-sample")
	return cmd
}

func (a *app) start(ctx context.Context, e *pgengine.Engine, name string, raw json.RawMessage, o *pgengine.StartOptions, follow bool) error {
	var s pgengine.Started
	err := sql.InTx(ctx, e.Pool(), func(tx pgx.Tx) (err error) {
		s, err = e.StartJSON(ctx, tx, name, raw, o)
		return err
	})
	if err != nil {
		return err
	}
	out := started{ID: s.ID, Name: name, Version: s.Version, Existed: s.Existed}
	if !follow {
		return a.print(out, func(w io.Writer) {
			if s.Existed {
				fmt.Fprintf(w, "%s had been started before with this key\n", s.ID)
			} else {
				fmt.Fprintln(w, s.ID)
			}
		})
	}
	status, err := directDesk{e}.End(ctx, s.ID)
	if err != nil {
		return fmt.Errorf("saga %s is started, and goes on: %w", s.ID, err)
	}
	out.Saga = &status
	if err := a.printEnd(ctx, directDesk{e}, out, status); err != nil {
		return err
	}
	return unless(status.State == pgengine.Completed)
}

// unless makes an exit code of what was not to be.
func unless(ok bool) error {
	if ok {
		return nil
	}
	return exitCode(exitFailed)
}

// readJSON reads JSON from where an argument says, and tells where it is wrong.
func (a *app) readJSON(from, argument string) (json.RawMessage, error) {
	var raw []byte
	var err error
	switch {
	case argument == "-":
		from = "standard input"
		raw, err = io.ReadAll(a.Stdin)
	case strings.HasPrefix(argument, "@"):
		from = argument[1:]
		raw, err = os.ReadFile(from)
	default:
		raw = []byte(argument)
	}
	if err != nil {
		return nil, fmt.Errorf("read the JSON: %w", err)
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			before := raw[:min(int(syntax.Offset), len(raw))]
			line := bytes.Count(before, []byte("\n")) + 1
			column := len(before) - bytes.LastIndexByte(before, '\n') - 1
			return nil, usagef("%s is not JSON: line %d, column %d: %w", from, line, column, err)
		}
		return nil, usagef("%s is not JSON: %w", from, err)
	}
	return raw, nil
}
