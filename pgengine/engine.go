package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Config tunes an [Engine]. The zero value is an engine that starts, reads and controls sagas, and has
// the code of none.
type Config struct {
	Sagas  []Definition
	Logger *slog.Logger // nil: slog.Default()
	// MaxPayload limits an input and a result, in bytes of JSON. 0: 1 MiB.
	MaxPayload int
	// MaxCrashes is how many workers may die at one step of a saga before the step has failed: it is
	// the step that kills them. 0: 10.
	MaxCrashes int
	// Listener is told of each [Event] after its commit, in the process that has recorded it, and by the goroutine
	// that did: it must be quick. It hears of most, once each: an event is lost to it if the process dies right then, or if
	// the answer to a commit is. What must not be lost is for a [Hook]. nil: none.
	Listener func(Event)
	// NoWake leaves all NOTIFYs out: whatever is started or scheduled is found by the workers' polls.
	NoWake bool
	// Registry gets the metrics of starts and of what this engine drives. nil: they are counted for nobody.
	Registry prometheus.Registerer
	// TracerProvider makes spans of starts, steps and undos. nil: none; the trace context of the starter is kept in the
	// saga and handed on all the same.
	TracerProvider trace.TracerProvider
	// Codec encrypts or compresses what sagas store: inputs, results, signals, and the messages they publish. nil: they are
	// stored as they are, and encoded ones can't be read.
	Codec *codec.Codec
}

// Engine starts sagas, drives them, and tells about them. It starts no goroutine. Safe for concurrent use.
type Engine struct {
	pool       *pgxpool.Pool
	log        *slog.Logger
	listener   func(Event)  // nil: none
	codec      *codec.Codec // nil: none
	maxPayload int
	maxCrashes int
	graphs     map[string]map[int]*graph // by name and version
	latest     map[string]*graph
	waker      *sql.Waker    // nil: NoWake
	limit      time.Duration // the pool's sessions have this idle_in_transaction_session_timeout; 0: none

	metrics *engineMetrics
	tracer  trace.Tracer

	ends ends

	settling *together[*settlement] // of Activities

	mu   sync.Mutex
	held map[int64]*halt // by token: what this process drives; listed before it is taken
}

// New makes an engine over pool. A pool that is the engine's alone does well to set the run-time parameter
// idle_in_transaction_session_timeout, in milliseconds, to the workers' lease: every step then saves a statement. Every definition is checked, and all that is wrong with any is
// reported at once: each error in the join is a *[DefinitionError]. The database is not touched.
func New(pool *pgxpool.Pool, cfg Config) (*Engine, error) {
	e := &Engine{
		pool: pool, log: cfg.Logger, listener: cfg.Listener, codec: cfg.Codec, maxPayload: cfg.MaxPayload, maxCrashes: cfg.MaxCrashes,
		graphs: map[string]map[int]*graph{}, latest: map[string]*graph{},
		held: map[int64]*halt{}, ends: ends{waiting: map[string][]chan error{}},
		settling: newTogether((*settlement).size),
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	e.log, e.tracer = tracing.Logger(e.log), tracing.Tracer(cfg.TracerProvider)
	if e.maxPayload <= 0 {
		e.maxPayload = 1 << 20
	}
	if e.maxCrashes <= 0 {
		e.maxCrashes = 10
	}
	if pool != nil {
		ms, err := strconv.Atoi(pool.Config().ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"])
		if err == nil && ms > 0 {
			e.limit = time.Duration(ms) * time.Millisecond
		}
	}
	if !cfg.NoWake {
		e.waker = sql.NewWaker(pool, 0)
	}
	m, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, fmt.Errorf("pgengine: %w", err)
	}
	e.metrics = m
	var problems []error
	for i, d := range cfg.Sagas {
		if d == nil {
			problems = append(problems, &DefinitionError{Saga: fmt.Sprintf("Sagas[%d]", i), Problem: "is nil"})
			continue
		}
		g, wrong := d.definition()
		problems = append(problems, wrong...)
		if g == nil {
			continue
		}
		if e.graphs[g.name] == nil {
			e.graphs[g.name] = map[int]*graph{}
		}
		if e.graphs[g.name][g.version] != nil {
			problems = append(problems, &DefinitionError{Saga: g.name, Problem: fmt.Sprintf("version %d is defined twice", g.version)})
		}
		e.graphs[g.name][g.version] = g
		if l := e.latest[g.name]; l == nil || l.version < g.version {
			e.latest[g.name] = g
		}
	}
	problems = append(problems, e.checkChildren()...)
	problems = append(problems, e.checkLimits()...)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	for _, g := range e.all() {
		e.metrics.know(g)
	}
	return e, nil
}

// checkChildren refuses children that have a pivot where they could have to be taken back past it, as far as
// their code is here.
func (e *Engine) checkChildren() (problems []error) {
	for _, g := range e.all() {
		for i, n := range g.nodes {
			for _, version := range slices.Sorted(maps.Keys(e.graphs[n.child])) {
				if e.graphs[n.child][version].pivot < 0 || g.never(i) {
					continue
				}
				problems = append(problems, &DefinitionError{Saga: g.name, Step: n.name, Problem: fmt.Sprintf(
					"its child %s version %d has a pivot, past which it can't be taken back: only a step that is, or comes after, this saga's own pivot may start it",
					n.child, version)})
			}
		}
	}
	return problems
}

// Pool is the pool the engine works with.
func (e *Engine) Pool() *pgxpool.Pool { return e.pool }

// Codec is what payloads go through; nil: they are stored as they are.
func (e *Engine) Codec() *codec.Codec { return e.codec }

// Logger is the engine's logger.
func (e *Engine) Logger() *slog.Logger { return e.log }

// all lists the engine's definitions by name and version.
func (e *Engine) all() []*graph {
	var gs []*graph
	for _, name := range slices.Sorted(maps.Keys(e.graphs)) {
		for _, version := range slices.Sorted(maps.Keys(e.graphs[name])) {
			gs = append(gs, e.graphs[name][version])
		}
	}
	return gs
}

// Kinds are the River kinds of the sagas that this engine has the code of.
func (e *Engine) Kinds() []string {
	var kinds []string
	for _, g := range e.all() {
		kinds = append(kinds, g.kind())
	}
	return kinds
}

// Queues are the queues that the engine's sagas use; the default one is always among them.
func (e *Engine) Queues() []string {
	queues := map[string]bool{defaultQueue: true}
	for _, g := range e.all() {
		for _, n := range g.nodes {
			if n.queue != "" {
				queues[n.queue] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(queues))
}

// Definitions names the engine's sagas as name/version.
func (e *Engine) Definitions() []string {
	var names []string
	for _, g := range e.all() {
		names = append(names, fmt.Sprintf("%s/%d", g.name, g.version))
	}
	return names
}

// Register writes the engine's definitions into the database, so that tools can draw them and others
// can start them by name. A worker does it when it runs. A graph that changed under an unchanged version
// is refused while unfinished sagas run on the old one.
func (e *Engine) Register(ctx context.Context) error {
	return pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		for _, g := range e.all() {
			if err := register(ctx, tx, g, e.log); err != nil {
				return fmt.Errorf("register saga %s version %d: %w", g.name, g.version, err)
			}
		}
		return nil
	})
}

func register(ctx context.Context, tx pgx.Tx, g *graph, log *slog.Logger) error {
	changed, err := drift(ctx, tx, g)
	if err != nil {
		return err
	}
	if changed != "" {
		if _, err := tx.Exec(ctx, sql.SagaFreeze); err != nil {
			return err
		}
		if err := stillRunsOn(ctx, tx, g, changed); err != nil {
			return err
		}
		log.InfoContext(ctx, "definition changed under its version; no unfinished saga runs on it", "saga", g.name, "version", g.version, "difference", changed)
	}
	var timeout *time.Duration
	if g.timeout > 0 {
		timeout = &g.timeout
	}
	body, err := json.Marshal(g.public())
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, sql.DefinitionPut, g.name, g.version, string(body), timeout)
	return err
}

// drift says what is not as it is stored of a graph; "": nothing, or it is not stored.
func drift(ctx context.Context, db sql.Querier, g *graph) (changed string, err error) {
	var stored Graph
	var seconds float64
	err = db.QueryRow(ctx, sql.DefinitionGet, g.name, g.version).Scan(&stored, &seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	is := g.public().shape()
	a, _ := json.Marshal(stored.shape())
	b, _ := json.Marshal(is)
	if string(a) == string(b) {
		return "", nil
	}
	return difference(stored.shape(), is), nil
}

// stillRunsOn returns a *DefinitionError if unfinished sagas run on what is stored of a graph that has changed.
func stillRunsOn(ctx context.Context, db sql.Querier, g *graph, changed string) error {
	var unfinished int
	if err := db.QueryRow(ctx, sql.DefinitionUnfinished, g.name, g.version).Scan(&unfinished); err != nil {
		return err
	}
	if unfinished == 0 {
		return nil
	}
	return &DefinitionError{Saga: g.name, Problem: fmt.Sprintf(
		"version %d has changed (%s) while %d unfinished sagas run on it: give the changed graph a new Version", g.version, changed, unfinished)}
}

// difference names the first thing that is not the same.
func difference(was, is Graph) string {
	old := map[string]GraphStep{}
	for _, s := range was.Steps {
		old[s.Name] = s
	}
	for _, s := range is.Steps {
		o, ok := old[s.Name]
		if !ok {
			return "new step " + s.Name
		}
		delete(old, s.Name)
		a, _ := json.Marshal(o)
		b, _ := json.Marshal(s)
		if string(a) != string(b) {
			return fmt.Sprintf("step %s was %s, is %s", s.Name, a, b)
		}
	}
	for name := range old {
		return "step " + name + " is gone"
	}
	if was.Output != is.Output {
		return fmt.Sprintf("the output was %q, is %q", was.Output, is.Output)
	}
	return "the order of the steps"
}

// Check looks for rows that must not exist, see [sql.Check], and for definitions of this engine that differ from those
// which unfinished sagas run on: its worker would refuse to start (definition_drift).
func (e *Engine) Check(ctx context.Context) ([]sql.Violation, error) {
	found, err := sql.Check(ctx, e.pool)
	if err != nil {
		return nil, err
	}
	for _, g := range e.all() {
		changed, err := drift(ctx, e.pool, g)
		if err == nil && changed != "" {
			err = stillRunsOn(ctx, e.pool, g, changed)
		}
		if drifted, ok := errors.AsType[*DefinitionError](err); ok {
			found = append(found, sql.Violation{Rule: "definition_drift", Problem: drifted.Error()})
		} else if err != nil {
			return nil, fmt.Errorf("check the definition of saga %s version %d: %w", g.name, g.version, err)
		}
	}
	return found, nil
}

// wake tells workers, after the commit, that queues have something to do.
func (e *Engine) wake(queues ...string) {
	if e.waker != nil {
		e.waker.Wake(queues...)
	}
}
