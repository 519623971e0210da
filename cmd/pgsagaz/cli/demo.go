package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/demo"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

const demoKills = 3

func (a *app) demo() *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "Sell books by saga: orders, failures, compensation, and an audit of every account", Args: cobra.NoArgs,
		Long: "Places orders that reserve stock, charge a card at a bank with bad days, ship and notify. Some cannot\n" +
			"succeed and are compensated. Afterwards stock, money and parcels are audited; exit status 1 if\n" +
			"anything does not add up. Without a database it starts one of its own, and removes it.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDemo(cmd.Context()) },
	}
	a.cfg.bind(cmd.Flags(), "orders", "fail-rate", "workers", "kill", "console", "console-token", "keep")
	worker := &cobra.Command{
		Use: "worker", Short: "A worker of the demo, which ends with its standard input", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// However the demo ends, this pipe ends with it. Ctrl-C reaches both at once, and it is the demo
			// that says when.
			ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, a.Stdin)
				cancel()
			}()
			return a.work(ctx, []pgengine.Definition{demo.Fulfil(&demo.BankClient{}, demo.Mail{Busy: 0.1})})
		},
	}
	a.cfg.bind(worker.Flags(), workerSettings...)
	cmd.AddCommand(worker)
	return cmd
}

func (a *app) runDemo(ctx context.Context) (err error) {
	options := demo.Options{
		Orders: a.cfg.orders, FailRate: a.cfg.failRate, Workers: a.cfg.demoWorkers, Faults: demo.UsualFaults,
		Logger: a.logger(slog.LevelError + 1), // failures are what a demo is for
	}
	if !a.cfg.json {
		options.Screen = a.Stdout
		if f, ok := a.Stdout.(*os.File); ok {
			options.Terminal = term.IsTerminal(int(f.Fd()))
		}
	}
	url := a.cfg.databaseURL
	if url == "" {
		server, err2 := a.demoServer(ctx)
		if err2 != nil {
			return err2
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err = errors.Join(err, server.Stop(ctx))
		}()
		url = server.URL()
	} else if _, err := a.poolConfig(); err != nil {
		return err
	}
	if a.cfg.kill {
		options.Workers, options.Kills = max(2, options.Workers), demoKills
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program, to run it as workers: %w", err)
		}
		options.Spawn = func(id string) demo.Process { return newProcess(program, id, url) }
	}
	options.Keep = a.cfg.keep
	if a.cfg.console != "" {
		options.Beside = func(ctx context.Context, engine *pgengine.Engine) error {
			console, err := a.openConsole(ctx, engine)
			if err != nil {
				return err
			}
			if !a.cfg.json {
				fmt.Fprintln(a.Stdout, "the console is at", console.url)
			}
			return console.run(ctx)
		}
	}
	report, err := demo.Run(ctx, url, options)
	if err != nil {
		return err
	}
	if err := a.print(report, report.Print); err != nil {
		return err
	}
	if !report.OK {
		return exitCode(exitFailed)
	}
	return nil
}

func (a *app) demoServer(ctx context.Context) (*localpg.Server, error) {
	if !a.cfg.json {
		fmt.Fprintln(a.Stdout, "starting a Postgres of its own ...")
	}
	return localpg.Start(ctx, &localpg.Options{
		Download: true, CacheDir: demoCache(), Logger: a.logger(slog.LevelWarn),
		// The bank, the shop and every worker have pools.
		Settings: map[string]string{"max_connections": "300"},
	})
}

// demoCache is where a downloaded Postgres is kept. "" leaves it to localpg, which knows a place for
// root, whose own cache is closed to the user that has to run the server.
func demoCache() string {
	dir, err := os.UserCacheDir()
	if err != nil || os.Geteuid() == 0 {
		return ""
	}
	return filepath.Join(dir, "pgsagaz")
}

// process is this program once more, as a worker.
type process struct {
	*exec.Cmd
	stdin io.Closer
	said  tail
}

func newProcess(program, id, url string) *process {
	p := &process{Cmd: exec.Command(program, "demo", "worker", "--worker-id", id, "--pool-size", "8", "--grace", "3s", "--log-level", "error")}
	p.Env = append(p.Environ(), "PGSAGAZ_DATABASE_URL="+url) // not an argument: it may hold a password
	p.Stderr = &p.said
	return p
}

// Start starts it; its standard input stays open until Stop, or until this process ends.
func (p *process) Start() (err error) {
	if p.stdin, err = p.StdinPipe(); err != nil {
		return err
	}
	return p.Cmd.Start()
}

// Wait waits for its end, and tells what it said last.
func (p *process) Wait() error {
	err := p.Cmd.Wait()
	if said := p.said.String(); said != "" {
		err = errors.Join(err, errors.New(said))
	}
	if err == nil {
		err = errors.New("it stopped by itself")
	}
	return err
}

func (p *process) Stop()       { _ = p.stdin.Close() } // closed already, if it has ended
func (p *process) Kill() error { return p.Process.Kill() }
func (p *process) Pid() int    { return p.Process.Pid }

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p)
	if extra := t.b.Len() - 4096; extra > 0 {
		t.b.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b.Bytes()))
}
