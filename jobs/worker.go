package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Config tunes a [Worker]. The zero value of each field is its default.
type Config struct {
	// MaxWorkers is how many lanes of a queue are driven at once. An Activity that waits for the outside
	// takes one and no connection; a TxStep takes one of the engine's pool. 0: 100.
	MaxWorkers int
	// Queues are the queues to work, with their MaxWorkers (0: that of the Config). nil: all that the
	// engine's sagas use.
	Queues map[string]int
	// JobPerStep makes every step a River job of its own, instead of driving a saga's lane in one job.
	JobPerStep bool
	// Lease is how long a worker may be silent before its lanes are given to others. A step's transaction
	// that sends nothing for as long is ended by Postgres. 0: 5 s; at least 1 s.
	Lease time.Duration
	// Poll is River's safety net where a wake-up was lost. 0: 100 ms.
	Poll time.Duration
	// Sweep is how often this worker looks for what the dead held, and for what is due. 0: 500 ms.
	Sweep time.Duration
	// Grace is how long a stopping worker lets steps go on before it cuts them off. 0: 20 s.
	Grace time.Duration
	// ArchiveAfter is when a saga that has ended moves into the archive, where [pgengine.Engine.Get] still finds it and
	// nothing can be asked of it any more; its children move with it. A result that comes later than that, of a
	// call whose worker was taken for dead, is not undone any more. 0: 24 h; below 0: never.
	ArchiveAfter time.Duration
	// KeepArchive is how long a saga stays in the archive after its end. 0: for ever.
	KeepArchive time.Duration
	// KeepKeys is how long a start key is remembered, if its saga does not live longer. 0: 90 days; below 0: for ever.
	KeepKeys time.Duration
	// NoListen leaves LISTEN out: polls only.
	NoListen bool
	// RiverPool is for River's own traffic, and must lead to the server itself unless NoListen is set.
	// nil: a pool of 8 connections, with the engine's settings and synchronous_commit off.
	RiverPool *pgxpool.Pool
	// Direct is how to reach the server itself where the engine's pool goes through a pooler in
	// transaction mode: the session that shows that this worker lives needs it. nil: as the engine's pool.
	Direct *pgx.ConnConfig
	ID     string       // of this worker, unique; "": made from the host's name
	Logger *slog.Logger // nil: the engine's
	// Registry gets this worker's metrics, and those of the whole system where this worker leads; see [Collector]. nil: none.
	Registry prometheus.Registerer
}

const (
	defaultMaxWorkers = 100
	defaultLease      = 5 * time.Second
	defaultPoll       = 100 * time.Millisecond
	defaultSweep      = 500 * time.Millisecond
	defaultGrace      = 20 * time.Second

	defaultArchiveAfter = 24 * time.Hour
	defaultKeepKeys     = 90 * 24 * time.Hour

	controlWorkers = 8 // of pgengine.ControlQueue: each is one short transaction
)

// Worker drives sagas. Make it with [NewWorker]; it does nothing until [Worker.Run].
type Worker struct {
	engine *pgengine.Engine
	cfg    Config
	log    *slog.Logger
	jobs   running

	health    health
	metrics   *workerMetrics
	collector *Collector // nil: no registry

	stopping chan struct{} // closed when Run begins to stop
	sweeper  *sweeper
}

// NewWorker makes a worker for the engine's sagas. The database is not touched.
func NewWorker(e *pgengine.Engine, cfg Config) (*Worker, error) {
	set := func(d *time.Duration, byDefault time.Duration) {
		if *d == 0 {
			*d = byDefault
		}
	}
	if cfg.MaxWorkers == 0 {
		cfg.MaxWorkers = defaultMaxWorkers
	}
	set(&cfg.Lease, defaultLease)
	set(&cfg.Poll, defaultPoll)
	set(&cfg.Sweep, defaultSweep)
	set(&cfg.Grace, defaultGrace)
	set(&cfg.ArchiveAfter, defaultArchiveAfter)
	set(&cfg.KeepKeys, defaultKeepKeys)
	if cfg.Logger == nil {
		cfg.Logger = e.Logger()
	}
	if cfg.ID == "" {
		host, _ := os.Hostname()
		cfg.ID = fmt.Sprintf("%.40s-%d-%s", host, os.Getpid(), uuid.NewString()[:8])
	}
	switch {
	case len(e.Kinds()) == 0:
		return nil, errors.New("jobs: the engine has no sagas to work")
	case cfg.MaxWorkers < 0 || cfg.MaxWorkers > river.QueueNumWorkersMax:
		return nil, fmt.Errorf("jobs: MaxWorkers is %d, it must be between 1 and %d", cfg.MaxWorkers, river.QueueNumWorkersMax)
	case cfg.Lease < time.Second:
		return nil, fmt.Errorf("jobs: Lease is %v, it must be at least 1s", cfg.Lease)
	case cfg.KeepArchive < 0:
		return nil, errors.New("jobs: KeepArchive is negative")
	case cfg.Poll < time.Millisecond || cfg.Sweep < time.Millisecond || cfg.Grace < 0:
		return nil, errors.New("jobs: Poll, Sweep and Grace must not be negative")
	}
	if cfg.Queues == nil {
		cfg.Queues = map[string]int{}
		for _, q := range e.Queues() {
			cfg.Queues[q] = cfg.MaxWorkers
		}
	}
	for name, n := range cfg.Queues {
		if n < 0 || n > river.QueueNumWorkersMax {
			return nil, fmt.Errorf("jobs: Queues: %d workers for %q, it must be between 0 and %d", n, name, river.QueueNumWorkersMax)
		}
	}
	w := &Worker{engine: e, cfg: cfg, log: cfg.Logger.With("worker", cfg.ID)}
	var err error
	if w.metrics, err = newMetrics(cfg.Registry); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	if cfg.Registry != nil {
		if w.collector, err = NewCollector(e.Pool(), CollectorConfig{Registry: cfg.Registry, Logger: w.log}); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// ID is the worker's name in the database.
func (w *Worker) ID() string { return w.cfg.ID }

// Run works until ctx ends, and then stops: it takes nothing new, lets steps end within Grace, and hands
// the rest back at once. It waits for a database that is down, at the start and at any time later.
//
// It returns nil after such a stop. Errors: a *[sql.SchemaError] if this build does not fit the schema, a
// *[pgengine.DefinitionError] if a definition can't be registered. Call it once.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("worker %s: %w", w.cfg.ID, err)
	}
	riverPool := w.cfg.RiverPool
	if riverPool == nil {
		var err error
		if riverPool, err = w.newRiverPool(ctx); err != nil {
			return fmt.Errorf("worker %s: %w", w.cfg.ID, err)
		}
		defer riverPool.Close()
	}
	client, err := w.newRiver(riverPool)
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.ID, err)
	}

	w.stopping = make(chan struct{})
	present := newPresence(w)
	w.sweeper = newSweeper(w, riverPool, present)

	// Presence and sweeper outlive the lanes: a stopping worker must not be taken for a dead one.
	lasting, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	background, lasting := errgroup.WithContext(lasting)
	background.Go(func() error { return present.run(lasting) })
	select {
	case <-present.first: // seen by others before it takes anything
	case <-ctx.Done():
		end()
		return background.Wait()
	}
	background.Go(func() error { return w.sweeper.run(lasting) })
	if w.cfg.ArchiveAfter > 0 {
		a := &archivist{pool: riverPool, log: w.log, after: w.cfg.ArchiveAfter, keep: w.cfg.KeepArchive, keys: w.cfg.KeepKeys}
		background.Go(func() error { return a.run(lasting) })
	}

	// Not lasting: a worker that stops starts nothing more.
	starts := scheduler{engine: w.engine, log: w.log, every: w.cfg.Sweep}
	background.Go(func() error { return starts.run(ctx) })
	if w.collector != nil {
		background.Go(func() error { return w.collector.Run(lasting) })
	}

	if err := w.startRiver(ctx, client); err != nil {
		end()
		return errors.Join(background.Wait(), ignoreEnd(ctx, err))
	}
	w.log.InfoContext(ctx, "worker started", "sagas", w.engine.Definitions(), "queues", w.cfg.Queues)

	<-ctx.Done()
	w.health.stopping.Store(true)
	close(w.stopping)
	w.log.InfoContext(ctx, "worker is stopping", "grace", w.cfg.Grace)
	w.stopRiver(client)
	end()
	err = background.Wait()
	w.leave(riverPool)
	w.log.InfoContext(ctx, "worker stopped")
	return err
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// prepare proves that this build fits the schema, and registers the sagas.
func (w *Worker) prepare(ctx context.Context) error {
	return retry(ctx, w.log, "the database is not ready", func() error {
		if err := sql.CheckVersion(ctx, w.engine.Pool()); err != nil {
			return err
		}
		if err := durable(ctx, w.engine.Pool()); err != nil {
			return err
		}
		return w.engine.Register(ctx)
	})
}

// errNotDurable: what a step's commit claims, a crash of Postgres could take back.
var errNotDurable = errors.New("the engine's pool has synchronous_commit off or local: a claim that is lost in a crash of Postgres " +
	"would leave a call that nobody undoes; set it to on for this pool (RuntimeParams), the role or the database")

func durable(ctx context.Context, pool *pgxpool.Pool) error {
	var setting string
	if err := pool.QueryRow(ctx, sql.WorkerDurable).Scan(&setting); err != nil {
		return err
	}
	if setting == "off" || setting == "local" {
		return errNotDurable
	}
	return nil
}

// retry repeats f until it succeeds, ctx ends, or its error is not the database's absence.
func retry(ctx context.Context, log *slog.Logger, what string, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil || errors.As(err, new(*sql.SchemaError)) || errors.As(err, new(*pgengine.DefinitionError)) ||
			errors.Is(err, errNotDurable) || permanent(err) {
			return err
		}
		if n == 1 || n%20 == 0 {
			log.WarnContext(ctx, what+", trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Duration(n)*50*time.Millisecond, time.Second)/2 + rand.N(100*time.Millisecond)):
		}
	}
}

// permanent: Postgres answered, and the answer will be the same again (a missing right, say).
func permanent(err error) bool {
	code := sql.State(err)
	if code == "" {
		return false
	}
	switch code[:2] {
	case "08", "53", "57", "40", "55", "25":
		return false
	}
	return code != "3D000" // the database does not exist yet
}

func (w *Worker) newRiverPool(ctx context.Context) (*pgxpool.Pool, error) {
	cfg := w.engine.Pool().Config()
	if w.cfg.Direct != nil {
		cfg.ConnConfig = w.cfg.Direct.Copy()
	}
	cfg.MaxConns, cfg.MinConns = 8, 0
	cfg.ConnConfig.Tracer = nil
	// A hint that is lost in a crash of Postgres is found missing by the sweeper.
	cfg.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	cfg.ConnConfig.RuntimeParams["application_name"] = "pgsagaz river"
	return pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg)
}

func (w *Worker) newRiver(pool *pgxpool.Pool) (*river.Client[pgx.Tx], error) {
	const never = 50 * 365 * 24 * time.Hour
	workers := river.NewWorkers()
	for _, kind := range w.engine.Kinds() {
		river.AddWorkerArgs(workers, runArgs{kind: kind}, &runWorker{worker: w})
	}
	queues := map[string]river.QueueConfig{}
	for name, n := range w.cfg.Queues {
		if n == 0 {
			n = w.cfg.MaxWorkers
		}
		queues[name] = river.QueueConfig{MaxWorkers: n}
	}
	queues[pgengine.ControlQueue] = river.QueueConfig{MaxWorkers: controlWorkers}
	return river.NewClient(deaf{riverpgxv5.New(pool)}, &river.Config{
		ID: w.cfg.ID, Schema: "pgsagaz", Logger: slog.New(atLeastWarn{w.log.Handler()}),
		Queues: queues, Workers: workers, Hooks: []rivertype.Hook{&riverHook{workerMetrics: w.metrics}},
		FetchCooldown: time.Millisecond, FetchPollInterval: w.cfg.Poll, PollOnly: w.cfg.NoListen, FetchOnlyKnownKinds: true,
		JobTimeout: -1, RescueStuckJobsAfter: never,
		CompletedJobRetentionPeriod: time.Minute, CancelledJobRetentionPeriod: time.Hour, DiscardedJobRetentionPeriod: time.Hour,
		// The others were dropped by migration 10.
		ReindexerIndexNames: []string{"river_job_pkey", "river_job_prioritized_fetching_index", "river_job_state_and_finalized_at_index"},
	})
}

func (w *Worker) startRiver(ctx context.Context, client *river.Client[pgx.Tx]) error {
	return retry(ctx, w.log, "River does not start", func() error {
		// Not ctx: its end would cancel the jobs that are to end in peace.
		return client.Start(context.WithoutCancel(ctx))
	})
}

// stopRiver lets jobs end within the grace, then cancels their contexts, and never waits for a step that
// ignores its own for more than another grace.
func (w *Worker) stopRiver(client *river.Client[pgx.Tx]) {
	soft, cancel := context.WithTimeout(context.Background(), w.cfg.Grace)
	defer cancel()
	if client.Stop(soft) == nil {
		return
	}
	w.log.Warn("steps are still running after the grace; cutting them off")
	hard, cancel := context.WithTimeout(context.Background(), max(w.cfg.Grace, 5*time.Second))
	defer cancel()
	if err := client.StopAndCancel(hard); err != nil {
		w.log.Error("steps ignore their cancelled contexts; leaving them behind", "error", err)
	}
}

// leave hands back whatever is left and takes the worker off the list.
func (w *Worker) leave(pool *pgxpool.Pool) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := w.sweeper.handBackAll(ctx); err != nil {
		w.log.Warn("could not hand everything back; others will find it", "error", err)
		return // the row must stay, so that they do
	}
	if _, err := pool.Exec(ctx, sql.WorkerForget, w.cfg.ID); err != nil {
		w.log.Warn("could not sign off; others will find out", "error", err)
	}
}

// runArgs are what pgsagaz.hint writes into a job.
type runArgs struct {
	SagaID string `json:"saga_id"`
	Lane   int64  `json:"lane"`
	Step   string `json:"step"`

	kind string // of the saga's version; only known where the worker is registered
}

// Kind is River's.
func (a runArgs) Kind() string { return a.kind }

type runWorker struct {
	river.WorkerDefaults[runArgs]
	worker *Worker
}

// Timeout is River's: steps have limits of their own.
func (*runWorker) Timeout(*river.Job[runArgs]) time.Duration { return -1 }

// NextRetry is River's, after an error: only the database's absence makes one, and a stop in a saga's
// first step, with which another worker goes on at once.
func (r *runWorker) NextRetry(*river.Job[runArgs]) time.Time {
	select {
	case <-r.worker.stopping:
		return time.Now()
	default:
		return time.Now().Add(time.Second)
	}
}

// Work has the engine drive the lane that the job hints at.
func (r *runWorker) Work(ctx context.Context, job *river.Job[runArgs]) error {
	w := r.worker
	w.jobs.begin(job.ID)
	defer w.jobs.end(job.ID)
	name, version, err := splitKind(job.Kind)
	if err != nil {
		return err
	}
	return w.engine.Run(ctx, pgengine.Ticket{SagaID: job.Args.SagaID, Name: name, Version: version, Lane: job.Args.Lane, Step: job.Args.Step, Attempt: job.Attempt},
		pgengine.RunOptions{Worker: w.cfg.ID, JobPerStep: w.cfg.JobPerStep, Idle: w.cfg.Lease, Stopping: w.stopping, Due: w.sweeper.due})
}

func splitKind(kind string) (name string, version int, err error) {
	rest, ok := strings.CutPrefix(kind, "pgsagaz/")
	name, digits, ok2 := strings.Cut(rest, "/")
	version, err = strconv.Atoi(digits)
	if !ok || !ok2 || err != nil {
		return "", 0, fmt.Errorf("jobs: kind %q is not pgsagaz/NAME/VERSION", kind)
	}
	return name, version, nil
}

// running are the River jobs of this process, and those that ended a moment ago: River records an end
// in batches, some 250 ms later.
type running struct {
	mu   sync.Mutex
	jobs map[int64]time.Time // zero: still running; else its end
}

const lingering = 5 * time.Second

func (r *running) begin(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs == nil {
		r.jobs = map[int64]time.Time{}
	}
	r.jobs[id] = time.Time{}
}

func (r *running) end(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs[id] = time.Now()
}

// strangers are those of ids that this process is not running. It forgets what ended long ago.
func (r *running) strangers(ids []int64) []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var strange []int64
	for _, id := range ids {
		if _, known := r.jobs[id]; !known {
			strange = append(strange, id)
		}
	}
	for id, end := range r.jobs {
		if !end.IsZero() && time.Since(end) > lingering {
			delete(r.jobs, id)
		}
	}
	return strange
}

// atLeastWarn keeps River's news about itself out of the log.
type atLeastWarn struct{ slog.Handler }

// Enabled drops what is below a warning.
func (h atLeastWarn) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the limit.
func (h atLeastWarn) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeastWarn{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the limit.
func (h atLeastWarn) WithGroup(name string) slog.Handler {
	return atLeastWarn{h.Handler.WithGroup(name)}
}
