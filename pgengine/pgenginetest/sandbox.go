package pgenginetest

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Sandbox drives sagas in the test's own goroutine, one River job after the other, on a database whose clock it
// puts forward: sleeps, timeouts and backoffs take no time, and the same test runs the same way again. No
// worker may run on that database.
type Sandbox struct {
	Engine *pgengine.Engine

	// JobPerStep makes every step a job of its own, so that branches take turns. Seed chooses among the jobs that are
	// ready; 0: the oldest comes first.
	JobPerStep bool
	Seed       int64

	t       testing.TB
	pool    *pgxpool.Pool
	workers int // how many have been; each drives until it crashes
	crashed bool
}

// sandboxJobs bounds a run: a saga that needs more goes round in circles.
const sandboxJobs = 5000

// NewSandbox makes a sandbox on a migrated database that is the test's alone (sqltest.New gives one). The
// clock of that database is the sandbox's from now on.
func NewSandbox(t testing.TB, pool *pgxpool.Pool, sagas ...pgengine.Definition) *Sandbox {
	t.Helper()
	e, err := pgengine.New(pool, pgengine.Config{Sagas: sagas, Logger: slog.New(slog.DiscardHandler), NoWake: true})
	if err != nil {
		t.Fatalf("pgenginetest: %v", err)
	}
	s := &Sandbox{Engine: e, t: t, pool: pool}
	if _, err := pool.Exec(t.Context(), sql.KitClock, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("pgenginetest: the clock: %v", err)
	}
	if err := e.Register(t.Context()); err != nil {
		t.Fatalf("pgenginetest: %v", err)
	}
	return s
}

// Start starts a saga.
func (s *Sandbox) Start(in pgengine.Input) (id string) {
	s.t.Helper()
	s.Tx(func(tx pgx.Tx) error {
		started, err := s.Engine.Start(s.t.Context(), tx, in, nil)
		id = started.ID
		return err
	})
	return id
}

// Tx runs f in a transaction, for a Cancel, a Signal or a Resolve.
func (s *Sandbox) Tx(f func(pgx.Tx) error) {
	s.t.Helper()
	if err := pgx.BeginFunc(s.t.Context(), s.pool, f); err != nil {
		s.t.Fatalf("pgenginetest: %v", err)
	}
}

// Get reads a saga.
func (s *Sandbox) Get(id string) pgengine.Status {
	s.t.Helper()
	status, err := s.Engine.Get(s.t.Context(), id)
	if err != nil {
		s.t.Fatalf("pgenginetest: %v", err)
	}
	return status
}

// Advance puts the clock forward. The next Settle or Run starts what schedules say for the time that has passed.
func (s *Sandbox) Advance(d time.Duration) {
	s.t.Helper()
	s.exec(sql.KitAdvance, d.Seconds())
}

// Run works until nothing is left to do: all sagas have ended, are stuck, or wait for a signal without end. Where
// all wait for a time, the clock is put forward to it; not for a schedule, which would never end: see [Sandbox.Advance].
func (s *Sandbox) Run() {
	s.t.Helper()
	for range sandboxJobs {
		if !s.Work() && !s.forward() {
			return
		}
	}
	s.t.Fatalf("pgenginetest: %d jobs have not brought the sagas to an end", sandboxJobs)
}

// Settle works for as long as that takes no time: what sleeps, awaits a signal, or backs off stays.
func (s *Sandbox) Settle() {
	s.t.Helper()
	for range sandboxJobs {
		if !s.Work() {
			return
		}
	}
	s.t.Fatalf("pgenginetest: %d jobs have not brought the sagas to rest", sandboxJobs)
}

// Work works one River job, if there is one now.
func (s *Sandbox) Work() bool {
	s.t.Helper()
	for range 2 {
		if s.job() {
			return true
		}
		s.sweep()
	}
	return false
}

// Crash is what a hook of [pgengine.Inject] calls to have the worker die there and then: it does not return.
func (s *Sandbox) Crash() {
	s.crashed = true
	runtime.Goexit()
}

func (s *Sandbox) job() bool {
	s.t.Helper()
	ctx := s.t.Context()
	var job int64
	var kind string
	var k pgengine.Ticket
	err := s.pool.QueryRow(ctx, sql.KitJobTake, s.Seed).Scan(&job, &kind, &k.Attempt, &k.SagaID, &k.Lane, &k.Step)
	if err == pgx.ErrNoRows { //nolint:errorlint // Scan's own
		return false
	}
	if err != nil {
		s.t.Fatalf("pgenginetest: take a job: %v", err)
	}
	words := strings.Split(kind, "/")
	k.Name = words[1]
	if k.Version, err = strconv.Atoi(words[2]); err != nil {
		s.t.Fatalf("pgenginetest: job of kind %q: %v", kind, err)
	}

	// In a goroutine of its own, which a crash ends: what the worker held stays held.
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- s.Engine.Run(context.WithoutCancel(ctx), k, pgengine.RunOptions{Worker: fmt.Sprintf("sandbox %d", s.workers), JobPerStep: s.JobPerStep})
	}()
	if err := <-done; err != nil {
		s.t.Fatalf("pgenginetest: %v", err)
	}
	if s.crashed {
		s.crashed = false
		s.workers++
		s.exec(sql.KitJobAgain, job)
		return true
	}
	s.exec(sql.KitJobEnd, job)
	return true
}

// sweep does what a worker's sweeper does.
func (s *Sandbox) sweep() {
	s.t.Helper()
	s.exec(sql.SweepDead, fmt.Sprintf("sandbox %d", s.workers), time.Second)
	s.exec(sql.SweepDeadlines)
	s.exec(sql.SweepLimits)
	s.exec(sql.SweepHints)
	s.exec(sql.SweepLost)
	if _, _, err := s.Engine.RunSchedules(s.t.Context()); err != nil {
		s.t.Fatalf("pgenginetest: %v", err)
	}
}

// forward puts the clock forward to what falls due next. False: nothing does.
func (s *Sandbox) forward() bool {
	s.t.Helper()
	var seconds *float64
	if err := s.pool.QueryRow(s.t.Context(), sql.SweepDue).Scan(&seconds); err != nil {
		s.t.Fatalf("pgenginetest: %v", err)
	}
	if seconds == nil {
		return s.Work() // it may have fallen due just now
	}
	s.Advance(time.Duration(*seconds*float64(time.Second)) + time.Millisecond)
	return true
}

func (s *Sandbox) exec(statement string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), statement, args...); err != nil {
		s.t.Fatalf("pgenginetest: %v", err)
	}
}
