package sql_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestADeadWorkersCallIsInDoubt: what a dead worker held waits for another, with a job, and with what there is to know of it: that
// somebody died there, and that what was called may have happened. Dead is who has lost his session and does not beat, and
// also who has his session and has not beaten for his lease: he hangs.
func TestADeadWorkersCallIsInDoubt(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"died": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := sqltest.New(t)
			if hangs {
				session, err := pool.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer session.Release()
				exec(t, session, sql.WorkerLock, 0x5047535A, 7)
				defer exec(t, session, `SELECT pg_advisory_unlock_all()`)
			}
			exec(t, pool, `INSERT INTO pgsagaz.worker (id, host, pid, lock_key, lease, definitions, beat_at) VALUES ('w', '', 1, 7, '1 millisecond', '{}', now() - interval '1 hour')`)
			saga, lane := begun(t, pool)
			exec(t, pool, sql.SweepDead, "me", "1 second")
			var free, doubt, hinted bool
			var crashes int
			if err := pool.QueryRow(t.Context(), `
				SELECT worker IS NULL AND token IS NULL, in_doubt, crashes, EXISTS (SELECT FROM pgsagaz.river_job j WHERE j.id = l.job_id AND j.state = 'available')
				FROM pgsagaz.lane l WHERE saga_id = $1 AND id = $2`, saga, lane).Scan(&free, &doubt, &crashes, &hinted); err != nil {
				t.Fatal(err)
			}
			if !free || !doubt || crashes != 1 || !hinted {
				t.Errorf("free: %v, in doubt: %v, deaths: %d, with a job: %v", free, doubt, crashes, hinted)
			}
			if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.attempt WHERE saga_id = $1 AND kind = 'crash'`, saga); n != 1 {
				t.Errorf("%d deaths are in the history", n)
			}
		})
	}
}

// TestAClockThatWasSetBack: what was written by a clock that was ahead does not keep anybody for as long. Who has beaten then is missed a lease after; a
// job is to be had now, and its lane may be taken. What waits for a time goes on waiting, and so does what is due in a moment.
func TestAClockThatWasSetBack(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	exec(t, pool, `INSERT INTO pgsagaz.worker (id, host, pid, lock_key, lease, definitions, beat_at) VALUES ('w', '', 1, 7, '10 milliseconds', '{}', now() + interval '1 hour')`)
	saga, lane := begun(t, pool)
	ahead := func() []string { return list[string](t, pool, sql.SweepAhead, []string{"default"}, "6 seconds") }
	holder := func() string {
		return query[string](t, pool, `SELECT coalesce(worker, 'nobody') FROM pgsagaz.lane WHERE saga_id = $1`, saga)
	}
	if exec(t, pool, sql.SweepDead, "me", "1 second"); holder() != "w" {
		t.Error("it is missed in the future")
	}
	ahead()
	exec(t, pool, `SELECT pg_sleep(0.1)`)
	if exec(t, pool, sql.SweepDead, "me", "1 second"); holder() != "nobody" {
		t.Error("it is not missed")
	}

	exec(t, pool, `UPDATE pgsagaz.lane SET run_at = now() + interval '1 hour'`)
	exec(t, pool, `DELETE FROM pgsagaz.river_job WHERE id NOT IN (SELECT job_id FROM pgsagaz.lane)`)
	for _, c := range []struct {
		due, state string
		moves      bool
	}{{"1 hour", "available", true}, {"3 seconds", "available", false}, {"1 hour", "scheduled", false}, {"-1 hour", "available", false}} {
		exec(t, pool, `UPDATE pgsagaz.river_job SET state = $1, scheduled_at = now() + $2::interval`, c.state, c.due)
		before := query[string](t, pool, `SELECT scheduled_at::text FROM pgsagaz.river_job`)
		queues := ahead()
		if moved := query[string](t, pool, `SELECT scheduled_at::text FROM pgsagaz.river_job`) != before; moved != c.moves || (len(queues) > 0) != c.moves {
			t.Errorf("a job that is %s and due in %s: moved: %v, of queues %q", c.state, c.due, moved, queues)
		}
	}
	take := func() bool {
		return len(list[string](t, pool, `WITH taken AS (`+sql.LaneTake+`) SELECT step FROM taken`, lane, saga, "me", 77)) > 0
	}
	exec(t, pool, `DELETE FROM pgsagaz.river_job`)
	if exec(t, pool, sql.SweepLost); query[int](t, pool, `SELECT count(*) FROM pgsagaz.river_job`) != 1 {
		t.Error("a hint that was lost is not given again")
	}
	if !take() {
		t.Error("a lane that has a job cannot be taken")
	}
	exec(t, pool, `UPDATE pgsagaz.lane SET worker = NULL, token = NULL, job_id = NULL`)
	if take() {
		t.Error("a lane that waits for its time was taken")
	}
}

// TestALostHintIsGivenAgain: jobs are hints. What waits for one that is gone gets another.
func TestALostHintIsGivenAgain(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	saga, lane := started(t, pool)
	exec(t, pool, `SELECT pgsagaz.command($1, 'cancel', 'enough')`, saga)
	exec(t, pool, `UPDATE pgsagaz.lane SET run_at = now() - interval '1 minute'`)
	hinted := func() (n int) {
		return query[int](t, pool, `SELECT count(*) FROM pgsagaz.river_job j WHERE j.id IN (SELECT job_id FROM pgsagaz.lane WHERE id = $1 UNION SELECT job_id FROM pgsagaz.command)`, lane)
	}
	exec(t, pool, sql.SweepLost)
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.river_job`); n != 2 || hinted() != 2 {
		t.Errorf("%d jobs where none was lost", n)
	}
	exec(t, pool, `DELETE FROM pgsagaz.river_job`)
	exec(t, pool, sql.SweepLost)
	if n := hinted(); n != 2 {
		t.Errorf("the lane and the command have %d jobs together, want one each", n)
	}
}

// TestADeadlineTurnsBack: a deadline that has passed is a command, once.
func TestADeadlineTurnsBack(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	saga, _ := started(t, pool)
	exec(t, pool, `INSERT INTO pgsagaz.deadline (saga_id, due_at) VALUES ($1, now() + interval '1 hour')`, saga)
	asked := func() int {
		exec(t, pool, sql.SweepDeadlines)
		return query[int](t, pool, `SELECT count(*) FROM pgsagaz.command WHERE saga_id = $1 AND kind = 'deadline'`, saga)
	}
	if n := asked(); n != 0 {
		t.Errorf("%d commands before the deadline", n)
	}
	exec(t, pool, `UPDATE pgsagaz.deadline SET due_at = now() - interval '1 second'`)
	for range 2 {
		if n := asked(); n != 1 {
			t.Errorf("%d commands after the deadline", n)
		}
	}
}

// TestARetryWaits: a step that failed is nobody's, and due when its delay is over.
func TestARetryWaits(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	saga, lane := begun(t, pool)
	exec(t, pool, sql.RetryLater, saga, []string{"running"}, lane, 5, "w", "error", "no", false, 0.0, 60.0, false)
	if left := query[float64](t, pool, `SELECT extract(epoch FROM run_at - now())::float8 FROM pgsagaz.lane WHERE worker IS NULL AND token IS NULL`); left < 30 || left > 60 {
		t.Errorf("it is due in %v s, want almost 60", left)
	}
	exec(t, pool, sql.SweepHints)
	if query[bool](t, pool, `SELECT job_id IS NOT NULL FROM pgsagaz.lane`) {
		t.Error("it has a job before its time")
	}
}

// TestTheSagasLockIsExclusive: who has a saga's lock is alone with it. Those who share it would all count their siblings, and none
// of them see that it is the last.
func TestTheSagasLockIsExclusive(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	saga, _ := begun(t, pool)
	first, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Rollback(t.Context()) }()
	exec(t, first, sql.SagaLock, saga)
	err = pgx.BeginFunc(t.Context(), pool, func(second pgx.Tx) error {
		exec(t, second, `SET LOCAL lock_timeout = '50ms'`)
		_, err := second.Exec(t.Context(), sql.SagaLock, saga)
		return err
	})
	if sql.State(err) != "55P03" {
		t.Errorf("a second one has the lock too: %v", err)
	}
}
