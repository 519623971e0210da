package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Process is a worker that runs on its own.
type Process interface {
	Start() error
	Wait() error // nil after Stop; otherwise what the process said
	Stop()       // asks it to end
	Kill() error // SIGKILL
	Pid() int
}

// fleet are the run's workers.
type fleet struct {
	r    *run
	made int
	// failed gets the error of a worker that ended although nobody had stopped or killed it.
	failed chan error

	mu      sync.Mutex
	workers map[string]*worker
}

type worker struct {
	id    string
	pid   int // 0: in this process
	stop  func()
	kill  func() error
	ended chan struct{}
}

func newFleet(r *run) *fleet {
	return &fleet{r: r, workers: map[string]*worker{}, failed: make(chan error, 1)}
}

func (f *fleet) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := "in this process"
	if f.r.Spawn != nil {
		kind = "in processes of their own"
	}
	if len(f.workers) == 1 {
		return "1 worker " + kind
	}
	return fmt.Sprintf("%d workers %s", len(f.workers), kind)
}

// start starts n workers and waits until they work.
func (f *fleet) start(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var ids []string
	for range n {
		w, err := f.add(ctx)
		if err != nil {
			return err
		}
		ids = append(ids, w.id)
	}
	for {
		var there int
		err := f.r.pool.QueryRow(ctx, `SELECT count(*) FROM pgsagaz.worker WHERE id = ANY ($1)`, ids).Scan(&there)
		if err != nil || there == n {
			return err
		}
		select {
		case err := <-f.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("wait for the workers to start: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// add starts a worker and does not wait for it.
func (f *fleet) add(ctx context.Context) (*worker, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++
	id := fmt.Sprintf("demo-%s-w%d", f.r.id, f.made)
	launch := f.inside
	if f.r.Spawn != nil {
		launch = f.outside
	}
	w, wait, err := launch(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", id, err)
	}
	f.workers[id] = w
	go func() {
		err := wait()
		close(w.ended)
		f.mu.Lock()
		_, expected := f.workers[id]
		delete(f.workers, id)
		f.mu.Unlock()
		if expected {
			select {
			case f.failed <- fmt.Errorf("worker %s has ended: %w", id, err):
			default:
			}
		}
	}()
	return w, nil
}

// inside is a worker in this process, with a pool and an engine of its own as if it were not.
func (f *fleet) inside(ctx context.Context, id string) (*worker, func() error, error) {
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), f.r.pool.Config())
	if err != nil {
		return nil, nil, err
	}
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{Fulfil(&BankClient{}, Mail{Busy: 0.1})}, Logger: f.r.Logger})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	w, err := jobs.NewWorker(engine, jobs.Config{ID: id, Grace: 2 * time.Second})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	// Not ctx: workers end when they are told to, in order.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	wait := func() error {
		defer pool.Close()
		if err := w.Run(running); err != nil {
			return err
		}
		return errors.New("it stopped by itself")
	}
	return &worker{id: id, stop: stop, ended: make(chan struct{})}, wait, nil
}

func (f *fleet) outside(_ context.Context, id string) (*worker, func() error, error) {
	p := f.r.Spawn(id)
	if err := p.Start(); err != nil {
		return nil, nil, err
	}
	return &worker{id: id, pid: p.Pid(), stop: p.Stop, kill: p.Kill, ended: make(chan struct{})}, p.Wait, nil
}

// remove takes a worker off the list, so that its end is nobody's surprise.
func (f *fleet) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.workers, id)
}

// guard returns the error of a worker that ends by itself; nil when ctx ends.
func (f *fleet) guard(ctx context.Context) error {
	select {
	case err := <-f.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (f *fleet) ids() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for id := range f.workers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// stop stops all workers, and kills processes that do not listen. A second stop does nothing.
func (f *fleet) stop() {
	f.mu.Lock()
	all := f.workers
	f.workers = map[string]*worker{}
	f.mu.Unlock()
	for _, w := range all {
		w.stop()
	}
	patience := time.After(10 * time.Second)
	for _, w := range all {
		select {
		case <-w.ended:
		case <-patience:
			if w.kill != nil {
				_ = w.kill() // it ended a moment ago
			}
		}
	}
}

// busiest is the worker that drives the most lanes.
func (f *fleet) busiest(ctx context.Context) (*worker, error) {
	for {
		var id string
		err := f.r.pool.QueryRow(ctx, `SELECT coalesce((SELECT worker FROM pgsagaz.lane WHERE worker = ANY ($1)
			GROUP BY worker ORDER BY count(*) DESC LIMIT 1), '')`, f.ids()).Scan(&id)
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		w := f.workers[id]
		f.mu.Unlock()
		if w != nil {
			return w, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}
