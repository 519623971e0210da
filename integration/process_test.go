//go:build unix

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// workerVariable holds the options of a worker, and makes this binary one.
const workerVariable = "PGSAGAZ_INTEGRATION_WORKER"

func TestMain(m *testing.M) {
	if raw := os.Getenv(workerVariable); raw != "" {
		os.Exit(work(raw, runWorker))
	}
	if raw := os.Getenv(partVariable); raw != "" {
		os.Exit(work(raw, runPart))
	}
	os.Exit(sqltest.Main(m))
}

// workerOptions are what a worker process is told. Zero values are the defaults of jobs.Config.
type workerOptions struct {
	ID         string
	URL        string // of the database
	Outside    string // of the outside
	Role       string // of a bank's process: worker, relay, or the consumer of that name; "": it is none
	Post       string // host:port of a bank's broker
	Generation int    // of a rollout's workers; 0: it works the other sagas
	JobPerStep bool
	Lease      time.Duration
	Grace      time.Duration
	Gauge      time.Duration // how often it tells how much there is of it; 0: never
	Restless   time.Duration // how often its wall clock jumps, by up to an hour; 0: never
	Failpoint  string        // where to kill itself; "": nowhere
	Hit        int           // at which hit of it
}

// work is the main function of a process that runs with the options in raw.
func work[O any](raw string, run func(O, *slog.Logger) error) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var o O
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		log.Error(err.Error())
		return 2
	}
	go func() { // the test's end of the pipe closes with the test, on systems without a parent-death signal too
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if err := run(o, log); err != nil {
		log.Error("the process failed", "error", err)
		return 1
	}
	return 0
}

func runWorker(o workerOptions, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if o.Role != "" {
		return runBank(ctx, o, log)
	}
	pool, err := pgxpool.New(ctx, o.URL)
	if err != nil {
		return err
	}
	known := sagas(newClient(o.Outside, o.ID))
	if o.Generation > 0 {
		known = rollouts(o.Generation)
	}
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: known, Logger: log})
	if err != nil {
		return err
	}
	worker, err := jobs.NewWorker(engine, jobs.Config{ID: o.ID, JobPerStep: o.JobPerStep, Lease: o.Lease, Grace: o.Grace})
	if err != nil {
		return err
	}
	if o.Failpoint != "" {
		arm(o.Failpoint, o.Hit)
	}
	return worker.Run(ctx) // the pool is not closed: a step that ignores its context may still be in it
}

// process is a worker in a process of its own. It ends with the test.
type process struct {
	id     string
	cmd    *exec.Cmd
	log    *processLog
	exited chan struct{} // closed when the process is gone
	termed bool          // it is asked to end
}

// startProcess starts this binary as what the variable makes of it, and does not wait for it.
func startProcess(t testing.TB, id, variable string, options any) *process {
	t.Helper()
	raw, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{id: id, cmd: exec.Command(binary), log: newProcessLog(), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), variable+"="+string(raw))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = endWithParent()
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		// The kernel signals the process when its parent dies, and by parent it means the thread that forked.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is in ProcessState
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill() // also if it is stopped
		<-p.exited
		_ = stdin.Close()
		if text := p.log.bytes(); bytes.Contains(text, []byte("DATA RACE")) || bytes.Contains(text, []byte("\npanic: ")) || t.Failed() {
			t.Errorf("worker %s (%v) said:\n%s", p.id, p.cmd.ProcessState, tail(text, 6000))
		}
	})
	return p
}

func tail(text []byte, n int) []byte { return text[max(0, len(text)-n):] }

// ready waits until the worker takes jobs.
func (p *process) ready(t testing.TB) *process {
	t.Helper()
	select {
	case <-p.log.started:
	case <-p.exited:
		t.Fatalf("worker %s ended before it had started: %v", p.id, p.cmd.ProcessState)
	case <-time.After(patience):
		t.Fatalf("worker %s does not start", p.id)
	}
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // an error: it is gone already

// kill ends the process as kill -9 does.
func (p *process) kill() { p.signal(syscall.SIGKILL) }

// stop makes the process stand still, as a long pause of the machine does.
func (p *process) stop() { p.signal(syscall.SIGSTOP) }

// wake ends a stop.
func (p *process) wake() { p.signal(syscall.SIGCONT) }

// term asks the process to end in an orderly way.
func (p *process) term() {
	p.termed = true
	p.signal(syscall.SIGTERM)
}

// wait waits until the process is gone, and tells by which signal; 0: it ended by itself.
func (p *process) wait(t testing.TB) syscall.Signal {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("worker %s does not end", p.id)
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal()
	}
	return 0
}

// alive is false once the process is gone.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// processLog keeps what a process writes, and notices that its worker has started.
type processLog struct {
	started chan struct{}

	mu   sync.Mutex
	text []byte
	seen bool
}

func newProcessLog() *processLog { return &processLog{started: make(chan struct{})} }

// Write is called by one goroutine of package exec.
func (l *processLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	if !l.seen && bytes.Contains(l.text, []byte(`msg="worker started"`)) {
		l.seen = true
		close(l.started)
	}
	return len(b), nil
}

func (l *processLog) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.text)
}
