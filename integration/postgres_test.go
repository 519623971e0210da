//go:build unix

package integration

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/localpg"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// crash stops Postgres as a power cut does, and starts it again.
func crash(t testing.TB, server *localpg.Server) {
	t.Helper()
	if err := server.Crash(); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// ended is how many sagas have; -1: Postgres does not say.
func (w *world) ended() int {
	n := -1
	_ = w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NOT NULL`).Scan(&n)
	return n
}

// nobodyDied proves that no live worker was taken for dead.
func (w *world) nobodyDied() {
	w.t.Helper()
	var crashes int
	if err := w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM pgsagaz.attempt WHERE kind = 'crash'`).Scan(&crashes); err != nil {
		w.t.Fatal(err)
	}
	if crashes > 0 {
		w.t.Errorf("%d steps were taken from workers that were alive", crashes)
	}
}

func TestPostgresCrashesUnderWay(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		server := sqltest.Server(t)
		w := newWorldOn(t, server)
		const n = 200
		w.startMany(n)
		w.launch(workerOptions{JobPerStep: jobPerStep})
		w.launch(workerOptions{JobPerStep: jobPerStep})
		for round := 1; round <= 3; round++ {
			eventually(t, patience, "some sagas end", func() bool { return w.ended() >= round*n/8 })
			crash(t, server)
		}
		w.allEnd(60 * time.Second)
		w.audit()
		w.nobodyDied()
	})
}

func TestPostgresCrashesWhileNothingRuns(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		server := sqltest.Server(t)
		w := newWorldOn(t, server)
		a, b := w.worker(workerOptions{JobPerStep: jobPerStep}), w.worker(workerOptions{JobPerStep: jobPerStep})
		w.wait(w.start(Order{}))
		crash(t, server)
		begun := time.Now()
		w.wait(w.start(Order{}))
		took := time.Since(begun)
		t.Logf("the first saga after the restart took %v", took.Round(time.Millisecond))
		if took > time.Second+slack {
			t.Errorf("the first saga after the restart took %v", took)
		}
		w.works(a) // both are back
		w.works(b)
		w.nobodyDied()
		w.audit()
	})
}

func TestSessionsAreTerminatedAgainAndAgain(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		w := newWorld(t)
		w.startMany(200)
		w.worker(workerOptions{JobPerStep: jobPerStep})
		w.worker(workerOptions{JobPerStep: jobPerStep})
		killed := 0
		for begin := time.Now(); time.Since(begin) < 5*time.Second; time.Sleep(100 * time.Millisecond) {
			var n int
			err := w.pool.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&n)
			if err != nil {
				t.Fatal(err)
			}
			killed += n
		}
		t.Logf("%d sessions were terminated", killed)
		w.allEnd(2 * patience)
		w.audit()
		w.nobodyDied()
	})
}

// A worker that loses the session which shows that it lives, and nothing else, keeps what it holds.
func TestLostPresenceIsNoDeath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := two(w, workerOptions{})
	id, g := w.gated("charge", Order{})
	holder, _ := at(g)
	for range 30 {
		_, err := w.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'pgsagaz worker'`)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.outside.open(g)
	s := w.wait(id)
	for _, step := range s.Steps {
		if step.Step == "charge" && step.Worker != holder.id {
			t.Errorf("charge was taken from %s, which was alive, by %s", holder.id, step.Worker)
		}
	}
	w.nobodyDied()
	w.audit()
}

// Connections are cut at any byte, in either direction: among them those on which a COMMIT has gone out and whose
// answer never comes.
func TestConnectionsAreCut(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, jobPerStep bool) {
		w := newWorld(t)
		p := newProxy(t, w.url)
		w.startMany(300)
		w.worker(workerOptions{JobPerStep: jobPerStep, URL: p.url})
		w.worker(workerOptions{JobPerStep: jobPerStep, URL: p.url})
		p.cutAfter(40_000)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			for ctx.Err() == nil && w.ended() < 300 {
				time.Sleep(20 * time.Millisecond)
			}
		})
		wg.Wait()
		p.cutAfter(0)
		t.Logf("%d connections were cut; %d sagas ended meanwhile", p.cuts.Load(), w.ended())
		w.allEnd(2 * patience)
		if p.cuts.Load() < 10 {
			t.Errorf("only %d connections were cut", p.cuts.Load())
		}
		w.audit()
	})
}
