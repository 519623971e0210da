package pgenginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// runTimeout is how long a saga may take from its start to its end. Only this package's test changes it.
var runTimeout = 30 * time.Second

// look is how soon it shows that a saga is stuck; an end shows at once.
const look = 100 * time.Millisecond

// Run starts a saga over input, and returns it when it has ended or is stuck. A worker drives it, with the
// engine's own database; the worker serves all tests that use the engine and is stopped at the end of the
// last. The test ends, with all that is known of the saga, if nothing of that happens within 30 s.
func Run(t testing.TB, e *pgengine.Engine, input pgengine.Input) pgengine.Status {
	t.Helper()
	w := workerFor(t, e)
	var started pgengine.Started
	err := sql.InTx(t.Context(), e.Pool(), func(tx pgx.Tx) (err error) {
		started, err = e.Start(t.Context(), tx, input, nil)
		return err
	})
	if err != nil {
		t.Fatalf("pgenginetest: %v", err)
	}
	status, err := await(t.Context(), e, w, started.ID, runTimeout)
	if err != nil {
		t.Fatalf("pgenginetest: %v\n%s", err, story(status))
	}
	return status
}

// await returns the saga as it rests; with an error, as far as it came.
func await(ctx context.Context, e *pgengine.Engine, w *worker, id string, limit time.Duration) (pgengine.Status, error) {
	deadline := time.Now().Add(limit)
	for {
		short, cancel := context.WithTimeout(ctx, look)
		_, err := e.Wait(short, id)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return pgengine.Status{}, err
		}
		status, err := e.Get(ctx, id)
		if err != nil {
			return status, err
		}
		switch {
		case status.State == pgengine.Stuck || status.State.Ended():
			return status, nil
		case w.ended():
			return status, fmt.Errorf("the worker has ended: %w", w.err)
		case time.Now().After(deadline):
			return status, fmt.Errorf("the saga has not ended in %v", limit)
		}
	}
}

// worker is the one that drives an engine's sagas for as long as tests use it.
type worker struct {
	users int
	stop  context.CancelFunc
	done  chan struct{}
	err   error // of Run, once done is closed
}

var (
	mu      sync.Mutex
	workers = map[*pgengine.Engine]*worker{}
)

func workerFor(t testing.TB, e *pgengine.Engine) *worker {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	w := workers[e]
	if w == nil {
		run, err := jobs.NewWorker(e, jobs.Config{Grace: time.Second})
		if err != nil {
			t.Fatalf("pgenginetest: %v", err)
		}
		ctx, stop := context.WithCancel(context.Background())
		w = &worker{stop: stop, done: make(chan struct{})}
		workers[e] = w
		go func() {
			defer close(w.done)
			w.err = run.Run(ctx)
		}()
	}
	w.users++
	t.Cleanup(func() {
		mu.Lock()
		w.users--
		last := w.users == 0
		if last {
			delete(workers, e)
		}
		mu.Unlock()
		if !last {
			return
		}
		w.stop()
		<-w.done
		if w.err != nil {
			t.Errorf("pgenginetest: %v", w.err)
		}
	})
	return w
}

func (w *worker) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// story tells a saga from its beginning.
func story(s pgengine.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "saga %s %s, version %d: %s", s.Name, s.ID, s.Version, s.State)
	if s.Cause != nil {
		fmt.Fprintf(&b, " (%v)", s.Cause)
	}
	fmt.Fprintf(&b, "\n  input %s\n", s.Input)
	for _, step := range s.Steps {
		fmt.Fprintf(&b, "  %s %s: %s", step.Direction, step.Step, step.State)
		if step.InDoubt {
			b.WriteString(", in doubt")
		}
		if step.Result != nil {
			fmt.Fprintf(&b, ", result %s", step.Result)
		}
		if step.Error != "" {
			fmt.Fprintf(&b, ": %s", step.Error)
		}
		if step.NextAt != nil {
			fmt.Fprintf(&b, ", next attempt at %s", step.NextAt.Format(time.TimeOnly))
		}
		b.WriteByte('\n')
		for _, a := range s.Attempts {
			if a.Step == step.Step && a.Direction == step.Direction && a.Generation == step.Generation {
				fmt.Fprintf(&b, "    attempt %d: %s: %s\n", a.Attempt, a.Kind, a.Error)
			}
		}
	}
	if len(s.Steps) == 0 {
		b.WriteString("  no step has begun\n")
	}
	return b.String()
}
