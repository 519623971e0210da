// Package cli is the command line: everything a program needs around its sagas, to run them and to look
// after them. See [Program].
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Program is a command line over some sagas.
type Program struct {
	Sagas []pgengine.Definition // the ones that the command worker works
	Demo  bool                  // adds the command demo
	Codec *codec.Codec          // of payloads, in place of what --codec-keys says; nil: by the settings

	// Publishers are brokers of the program's own that --broker may name, by the scheme of their addresses, beside Kafka,
	// RabbitMQ, Redis and memory.
	Publishers map[string]func(ctx context.Context, address string) (outbox.Publisher, error)

	// TracerProvider gets the spans of what the command worker drives and publishes, in place of what --otlp-endpoint says. nil: by
	// the settings; where they say nothing no spans are made, and trace contexts are handed on all the same.
	TracerProvider trace.TracerProvider
}

// Streams are what a program has of the world. All fields are needed.
type Streams struct {
	Args           []string // without the program's name
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // it did not work, or a check found something
	exitUsage  = 2 // it was asked for wrongly
)

// Main runs the program of this process, until it ends or is told to by SIGINT or SIGTERM. A second
// signal ends it at once. It returns the exit code.
func (p Program) Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return p.Run(ctx, Streams{Args: os.Args[1:], Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// Run is Main without the process. It returns the exit code: 0, 1 if the command did not succeed, 2 if
// it was asked for wrongly.
func (p Program) Run(ctx context.Context, s Streams) int {
	a := &app{Program: p, Streams: s}
	root := a.root()
	root.SetArgs(s.Args)
	root.SetIn(s.Stdin)
	root.SetOut(s.Stdout)
	root.SetErr(s.Stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code) // the command has said what there is to say
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	a.complain(err)
	if errors.As(err, new(*usageError)) {
		return exitUsage
	}
	return exitFailed
}

// app is one run of the program.
type app struct {
	Program
	Streams
	cfg    config
	codec  *codec.Codec         // nil: payloads are stored as they are
	traces trace.TracerProvider // nil: no spans are made
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "pgsagaz",
		Short:         "Sagas on Postgres: run them, and look after them",
		Args:          cobra.NoArgs,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
	})
	a.cfg.bind(root.PersistentFlags(), "config", "database-url", "json", "log-level", "log-format", "codec-keys", "codec-compress", "server", "server-token")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		err := a.cfg.complete(cmd, a.Getenv, func(scheme string) bool { return a.Publishers[scheme] != nil })
		if err != nil {
			return err
		}
		return a.useCodec(cmd)
	}
	root.AddCommand(a.migrate(), a.worker(), a.saga(), a.schedule(), a.outbox(), a.inbox(), a.audit(), a.codecCommand(), a.check(), a.bench(), a.config(root), a.version())
	if a.Demo {
		root.AddCommand(a.demo())
	}
	argumentsAreUsage(root)
	return root
}

// argumentsAreUsage makes usage errors of what cobra says of a command's arguments.
func argumentsAreUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		argumentsAreUsage(sub)
	}
}

// complain tells stderr of an error, in JSON if that is what was asked for.
func (a *app) complain(err error) {
	if a.cfg.json {
		_ = json.NewEncoder(a.Stderr).Encode(map[string]string{"error": err.Error()}) // nobody is left to tell
		return
	}
	fmt.Fprintf(a.Stderr, "pgsagaz: %v\n", err)
}

// usageError is the caller's mistake.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitCode ends the program after all has been said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }
