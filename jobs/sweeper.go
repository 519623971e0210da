package jobs

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// sweeper looks at what is, not at what has happened, again and again: a look that was missed is made
// good by the next.
type sweeper struct {
	w        *Worker
	pool     *pgxpool.Pool
	presence *presence
	waker    *sql.Waker // nil: NoListen
	log      *slog.Logger

	mu   sync.Mutex
	next time.Time // when something falls due, as far as this process knows; zero: nothing known
	kick chan struct{}

	unknown  map[string]bool // kinds that were reported; only touched by run
	lostNext time.Time       // when to look for lost jobs; only touched by run
	slowNext time.Time       // when to look for strays and unknown kinds; only touched by run
}

func newSweeper(w *Worker, pool *pgxpool.Pool, p *presence) *sweeper {
	s := &sweeper{w: w, pool: pool, presence: p, log: w.log, kick: make(chan struct{}, 1), unknown: map[string]bool{}}
	if !w.cfg.NoListen {
		s.waker = sql.NewWaker(pool, 0)
	}
	return s
}

// due is told by the engine that something falls due in d, so that the sweeper is there in time.
func (s *sweeper) due(d time.Duration) {
	at := time.Now().Add(d)
	s.mu.Lock()
	sooner := s.next.IsZero() || at.Before(s.next)
	if sooner {
		s.next = at
	}
	s.mu.Unlock()
	if sooner {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// run sweeps until ctx ends. The whole look is every Sweep; what this process knows to fall due in
// between is looked for when it does.
func (s *sweeper) run(ctx context.Context) error {
	whole := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		s.mu.Lock()
		next := s.next
		s.mu.Unlock()
		wake := whole
		if !next.IsZero() && next.Before(wake) {
			wake = next
		}
		if wait := wake.Sub(now); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-s.kick:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		s.mu.Lock()
		s.next = time.Time{}
		s.mu.Unlock()
		var err error
		if !now.Before(whole) {
			err = s.look(ctx)
			whole = time.Now().Add(s.w.cfg.Sweep/2 + rand.N(s.w.cfg.Sweep/2))
		} else {
			err = s.hints(ctx)
			select { // many small retries must not make this a spin
			case <-ctx.Done():
			case <-time.After(3 * time.Millisecond):
			}
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "a sweep failed; the next one will look again", "error", err)
		}
	}
	return nil
}

// raised is how many jobs of a low priority that have waited for long go first, of each queue, every two seconds. Few, so that a
// backlog of them does not take over.
const raised = 8

// ahead is how far in the future a job may be due that River has to give out: it lets one that was put off for less than five seconds wait there.
const ahead = 6 * time.Second

// look is one whole sweep.
func (s *sweeper) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if s.presence.mayReap() {
		if err := s.dead(ctx); err != nil {
			return err
		}
	}
	if err := s.queues(ctx, sql.SweepDeadlines); err != nil {
		return err
	}
	if err := s.queues(ctx, sql.SweepLimits); err != nil {
		return err
	}
	if err := s.hints(ctx); err != nil {
		return err
	}
	if time.Now().After(s.lostNext) {
		begun := time.Now()
		if err := s.queues(ctx, sql.SweepLost); err != nil {
			return err
		}
		// It looks at all that waits: with a million of those it may take a second, every minute.
		s.lostNext = time.Now().Add(max(2*time.Second, 50*time.Since(begun)))
	}
	if err := s.strayLanes(ctx); err != nil {
		return err
	}
	if time.Now().After(s.slowNext) {
		s.slowNext = time.Now().Add(2 * time.Second)
		if err := s.strayJobs(ctx); err != nil {
			return err
		}
		if err := s.unknownKinds(ctx); err != nil {
			return err
		}
		if _, err := s.pool.Exec(ctx, sql.SweepWaiting, slices.Collect(maps.Keys(s.w.cfg.Queues)), raised); err != nil {
			return err
		}
		if _, err := s.pool.Exec(ctx, sql.SweepLines); err != nil {
			return err
		}
		if err := s.queues(ctx, sql.SweepAhead, slices.Collect(maps.Keys(s.w.cfg.Queues)), ahead); err != nil {
			return err
		}
	}
	var seconds *float64
	if err := s.pool.QueryRow(ctx, sql.SweepDue).Scan(&seconds); err != nil {
		return err
	}
	if seconds != nil {
		s.due(time.Duration(*seconds * float64(time.Second)))
	}
	return nil
}

func (s *sweeper) wake(queues ...string) {
	if s.waker != nil {
		s.waker.Wake(queues...)
	}
}

func (s *sweeper) hints(ctx context.Context) error { return s.queues(ctx, sql.SweepHints) }

// queues runs a statement that answers with the queues it gave jobs to.
func (s *sweeper) queues(ctx context.Context, statement string, args ...any) error {
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	queues, err := pgx.CollectRows(rows, pgx.RowTo[string])
	s.wake(queues...)
	return err
}

// dead takes back what dead workers held.
func (s *sweeper) dead(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, sql.SweepDead, s.w.cfg.ID, beat+beat/2)
	if err != nil {
		return err
	}
	type freed struct{ What, Worker, Queue, SagaID, Step string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[freed])
	dead := map[string]bool{}
	for _, f := range all {
		if f.What == "lane" {
			dead[f.Worker] = true
			s.w.metrics.lanes.Inc()
			s.log.WarnContext(ctx, "a worker died; its lane goes to another", "dead", f.Worker, "saga_id", f.SagaID, "step", f.Step)
		}
		s.wake(f.Queue)
	}
	s.w.metrics.takeovers.Add(float64(len(dead)))
	return err
}

// strayLanes gives up lanes that the database says are this worker's and that it does not drive: the
// answer to a take was lost, or a crash of Postgres took back what had been recorded. What the database
// says is read before what this process knows: a lane is listed here before it is taken there, so one
// that is in the first and not in the second has been let go.
func (s *sweeper) strayLanes(ctx context.Context) error {
	return s.giveUp(ctx, func(m mine) bool {
		m.halt(s.w.engine) // in case that the word of it was lost
		return !s.w.engine.Holds(m.ID, m.Token)
	})
}

// handBackAll gives up every lane of this worker.
func (s *sweeper) handBackAll(ctx context.Context) error {
	return s.giveUp(ctx, func(mine) bool { return true })
}

// mine is a lane that the database says this worker drives.
type mine struct {
	SagaID    string
	ID, Token int64
	Turned    *float64 // seconds since its saga began to turn back; nil: it has not
}

// halt stops what it is at, if its saga turns back and does not wait for that.
func (m mine) halt(e *pgengine.Engine) {
	if m.Turned != nil {
		e.Halt(m.SagaID, time.Duration(*m.Turned*float64(time.Second)))
	}
}

func (s *sweeper) giveUp(ctx context.Context, stray func(mine) bool) error {
	rows, err := s.pool.Query(ctx, sql.StrayLanes, s.w.cfg.ID)
	if err != nil {
		return err
	}
	lanes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[mine])
	if err != nil {
		return err
	}
	for _, l := range lanes {
		if !stray(l) {
			continue
		}
		s.log.InfoContext(ctx, "handing back a lane", "lane", l.ID)
		if _, err := s.pool.Exec(ctx, sql.LaneHandBack, l.SagaID, l.ID, l.Token, true); err != nil {
			return err
		}
		for queue := range s.w.cfg.Queues {
			s.wake(queue)
		}
	}
	return nil
}

// strayJobs gives back River jobs that Postgres says run here, and that don't: their end was lost.
func (s *sweeper) strayJobs(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, sql.StrayJobs, s.w.cfg.ID)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	if strange := s.w.jobs.strangers(ids); len(strange) > 0 {
		_, err = s.pool.Exec(ctx, sql.StrayJobRelease, strange, s.w.cfg.ID)
	}
	return err
}

// unknownKinds says, once for each, that sagas wait for a worker which has their code.
func (s *sweeper) unknownKinds(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, sql.SweepUnknown, s.w.engine.Kinds())
	if err != nil {
		return err
	}
	type waiting struct {
		Kind  string
		Count int
		Saga  string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[waiting])
	for _, k := range all {
		if s.unknown[k.Kind] {
			continue
		}
		s.unknown[k.Kind] = true
		name, version, _ := splitKind(k.Kind)
		s.log.WarnContext(ctx, "sagas wait for a worker that has their code; this one has not, and leaves them",
			"saga", name, "version", version, "waiting", k.Count, "saga_id", k.Saga)
	}
	return err
}
