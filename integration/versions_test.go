//go:build unix

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Rollout is the input of a saga that changes from one generation of its workers to the next.
type Rollout struct {
	Fail bool
	Hold bool // it waits for Open
}

// SagaName is the saga's name.
func (Rollout) SagaName() string { return "rollout" }

// Open is the signal that a rollout on hold waits for.
type Open struct{}

// SignalName is the signal's name.
func (Open) SignalName() string { return "open" }

// The generations of a rollout's workers. Each has the code of one version and no other.
const (
	before  = 1 // version 1: first ─ hold ─ nap ─ last
	after   = 2 // version 2: first ─ check ─ hold ─ nap ┬ pack  ┬ last
	changed = 3 // version 1 again, but first ─ last     └ label ┘
)

// rolloutNap is long enough for an upgrade to find sagas asleep.
const rolloutNap = 300 * time.Millisecond

// rollouts are the definitions of a generation. What its steps did is written with the version that did it.
func rollouts(generation int) []pgengine.Definition {
	version := map[int]int{before: 1, after: 2, changed: 1}[generation]
	noted := func(ctx context.Context, tx pgx.Tx, c pgengine.Call[Rollout], direction string) error {
		_, err := tx.Exec(ctx, `INSERT INTO effect (saga, step, direction) VALUES ($1, $2, $3)`, c.SagaID, fmt.Sprintf("%d/%s", generation, c.Step), direction)
		return err
	}
	writes := func(name string, after ...pgengine.Step[Rollout]) pgengine.TxStep[Rollout, string] {
		return pgengine.TxStep[Rollout, string]{
			Name: name, After: after, UndoRetry: undoQuickly,
			Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[Rollout]) (string, error) {
				return name, noted(ctx, tx, c, "do")
			},
			Undo: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[Rollout], _ string) error {
				return noted(ctx, tx, c, "undo")
			},
		}
	}
	last := func(after ...pgengine.Step[Rollout]) pgengine.TxStep[Rollout, string] {
		s := writes("last", after...)
		do := s.Do
		s.Do = func(ctx context.Context, tx pgx.Tx, c pgengine.Call[Rollout]) (string, error) {
			if c.Input.Fail {
				return "", pgengine.Terminal(errors.New("as the input says"))
			}
			return do(ctx, tx, c)
		}
		return s
	}
	nap := func(after ...pgengine.Step[Rollout]) (hold pgengine.Await[Rollout, Open], nap pgengine.Sleep[Rollout]) {
		hold = pgengine.Await[Rollout, Open]{Name: "hold", After: after, When: func(c pgengine.Call[Rollout]) bool { return c.Input.Hold }}
		return hold, pgengine.Sleep[Rollout]{Name: "nap", After: pgengine.Steps[Rollout](hold), For: rolloutNap}
	}
	first := writes("first")
	var steps []pgengine.Step[Rollout]
	switch generation {
	case before:
		h, n := nap(first)
		steps = pgengine.Steps[Rollout](first, h, n, last(n))
	case after:
		check := pgengine.Activity[Rollout, string]{
			Name: "check", After: pgengine.Steps(first), UndoRetry: undoQuickly,
			Do: func(context.Context, pgengine.Call[Rollout]) (string, error) { return "checked", nil },
			Commit: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[Rollout], _ string) error {
				return noted(ctx, tx, c, "do")
			},
			Undo: func(context.Context, pgengine.Call[Rollout], string) error { return nil },
			UndoCommit: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[Rollout], _ string) error {
				return noted(ctx, tx, c, "undo")
			},
		}
		h, n := nap(check)
		pack, label := writes("pack", n), writes("label", n)
		steps = pgengine.Steps[Rollout](first, check, h, n, pack, label, last(pack, label))
	case changed:
		steps = pgengine.Steps[Rollout](first, last(first))
	}
	return []pgengine.Definition{pgengine.Saga[Rollout]{Version: version, Steps: steps}}
}

// effects are what a rollout of a generation must have done when it has ended, in the order of the alphabet.
func (r Rollout) effects(generation int) (all []string) {
	steps := map[int][]string{before: {"first"}, after: {"first", "check", "pack", "label"}, changed: {"first"}}[generation]
	for _, s := range steps {
		all = append(all, fmt.Sprintf("do %d/%s", generation, s))
		if r.Fail {
			all = append(all, fmt.Sprintf("undo %d/%s", generation, s))
		}
	}
	if !r.Fail {
		all = append(all, fmt.Sprintf("do %d/last", generation))
	}
	slices.Sort(all)
	return all
}

// rollout is a world in which a process without code keeps starting rollouts.
type rollout struct {
	*world
	starter *pgengine.Engine
	sagas   map[string]Rollout
	version map[string]int // at which each started
	latest  string         // the one that was started last
}

// start starts one. version 0: the starter's choice.
func (r *rollout) start(in Rollout, version int) (id string) {
	r.t.Helper()
	var s pgengine.Started
	err := pgx.BeginFunc(r.t.Context(), r.pool, func(tx pgx.Tx) (err error) {
		s, err = r.starter.Start(r.t.Context(), tx, in, &pgengine.StartOptions{Version: version})
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.sagas[s.ID], r.version[s.ID], r.latest = in, s.Version, s.ID
	return s.ID
}

// open ends a hold.
func (r *rollout) open(id string) {
	r.t.Helper()
	err := pgx.BeginFunc(r.t.Context(), r.pool, func(tx pgx.Tx) error {
		return r.starter.Signal(r.t.Context(), tx, pgengine.ID(id), Open{})
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// goOn keeps starting sagas until f says yes.
func (r *rollout) goOn(what string, f func() bool) {
	r.t.Helper()
	eventually(r.t, patience, what, func() bool {
		r.start(Rollout{Fail: len(r.sagas)%4 == 3}, 0)
		time.Sleep(10 * time.Millisecond)
		return f()
	})
}

// counts says how many sagas of a version have ended, and how many have not.
func (r *rollout) counts(version int) (ended, unfinished int) {
	r.t.Helper()
	err := r.pool.QueryRow(r.t.Context(), `SELECT count(*) FILTER (WHERE ended_at IS NOT NULL), count(*) FILTER (WHERE ended_at IS NULL)
		FROM pgsagaz.saga WHERE name = 'rollout' AND version = $1`, version).Scan(&ended, &unfinished)
	if err != nil {
		r.t.Fatal(err)
	}
	return ended, unfinished
}

// listed is what the engine tells of a version.
func (r *rollout) listed(version int) pgengine.VersionStatus {
	r.t.Helper()
	list, err := r.starter.Versions(r.t.Context(), "rollout")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, v := range list {
		if v.Version == version {
			return v
		}
	}
	r.t.Fatalf("version %d is not among %+v", version, list)
	return pgengine.VersionStatus{}
}

// settled proves that each saga ended on the version it started with, and did what that version does.
func (r *rollout) settled() {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), `
		SELECT s.id::text, s.version, s.state::text,
		       array(SELECT e.direction || ' ' || e.step FROM effect e WHERE e.saga = s.id ORDER BY 1)
		FROM pgsagaz.saga s WHERE s.name = 'rollout'`)
	if err != nil {
		r.t.Fatal(err)
	}
	type end struct {
		ID      string
		Version int
		State   pgengine.State
		Effects []string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[end])
	if err != nil {
		r.t.Fatal(err)
	}
	if len(all) != len(r.sagas) {
		r.t.Errorf("there are %d sagas, %d were started", len(all), len(r.sagas))
	}
	ends := map[string]int{}
	for _, e := range all {
		in := r.sagas[e.ID]
		want := pgengine.Completed
		if in.Fail {
			want = pgengine.Compensated
		}
		slices.Sort(e.Effects)
		if e.Version != r.version[e.ID] || e.State != want || !slices.Equal(e.Effects, in.effects(e.Version)) {
			r.t.Errorf("saga %s started with version %d and is %s at version %d, after %q; want %s after %q",
				e.ID, r.version[e.ID], e.State, e.Version, e.Effects, want, in.effects(r.version[e.ID]))
		}
		ends[fmt.Sprintf("version %d %s", e.Version, e.State)]++
	}
	r.t.Log(ends)
}

// TestTwoGenerationsOfWorkers upgrades a fleet under load, rolls it back, and upgrades it again.
func TestTwoGenerationsOfWorkers(t *testing.T) {
	modes(t, func(t *testing.T, jobPerStep bool) {
		w := newWorld(t)
		starter, err := pgengine.New(w.pool, pgengine.Config{})
		if err != nil {
			t.Fatal(err)
		}
		r := &rollout{world: w, starter: starter, sagas: map[string]Rollout{}, version: map[string]int{}}
		worker := func(generation int) *process {
			return r.launch(workerOptions{Generation: generation, JobPerStep: jobPerStep, Lease: time.Second})
		}
		startsAt := func(version int) func() bool { return func() bool { return r.version[r.latest] == version } }

		old, other := worker(before).ready(t), worker(before).ready(t)
		r.goOn("sagas of version 1 end", func() bool { ended, _ := r.counts(1); return ended >= 10 })
		held1 := r.start(Rollout{Hold: true}, 1)

		// The upgrade: the new generation takes what starts now, the old one goes on with what it has.
		bad := worker(after)
		r.goOn("a start takes the version of the new worker", startsAt(2))
		r.goOn("the old workers are there, and have something to do", func() bool {
			v := r.listed(1)
			return v.Workers == 2 && v.Unfinished > 0
		})
		other.term()
		r.goOn("sagas of version 2 end beside those of version 1", func() bool { ended, _ := r.counts(2); return ended >= 10 })
		if id := r.start(Rollout{}, 1); r.version[id] != 1 { // who asks for the old version gets it
			t.Errorf("asked for version 1, got %d", r.version[id])
		}
		held2 := r.start(Rollout{Hold: true}, 2)
		r.goOn("version 1 has only the saga on hold", func() bool { _, open := r.counts(1); return open == 1 })

		// The roll-back: the only new worker dies. Its sagas stand still, and what starts now is of version 1 again.
		bad.kill()
		r.goOn("a start takes version 1 again", startsAt(1))
		endedBefore, _ := r.counts(1)
		r.goOn("sagas of version 1 end again", func() bool { ended, _ := r.counts(1); return ended >= endedBefore+10 })
		r.open(held2)
		if v := r.listed(2); v.Workers != 0 || v.Unfinished == 0 {
			t.Errorf("version 2 after the roll-back: %+v", v)
		}

		// A worker with another graph under version 1 is refused while sagas run on it.
		refused := worker(changed)
		r.goOn("it ends", func() bool { return !refused.alive() })
		if refused.wait(t); refused.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("the refused worker ended with %v", refused.cmd.ProcessState)
		}
		for _, said := range []string{"version 1 has changed (step last was ", "unfinished sagas run on it: give the changed graph a new Version"} {
			if !bytes.Contains(refused.log.bytes(), []byte(said)) {
				t.Errorf("the refused worker does not say %q:\n%s", said, refused.log.bytes())
			}
		}

		// The upgrade once more: what stood still goes on.
		worker(after)
		r.goOn("a start takes version 2 again", startsAt(2))
		r.open(held1)
		r.allEnd(patience)
		r.settled()

		// Now that none runs on it, the changed graph takes the place of the old one, and says so.
		old.term()
		old.wait(t)
		replaced := worker(changed).ready(t)
		if text := string(replaced.log.bytes()); !strings.Contains(text, "definition changed under its version") || !strings.Contains(text, "step last was") {
			t.Errorf("the new graph took the old one's place without a word:\n%s", text)
		}
		r.start(Rollout{}, 1)
		r.wait(r.latest)
		var did []string
		err = r.pool.QueryRow(t.Context(), `SELECT array_agg(direction || ' ' || step ORDER BY direction, step) FROM effect WHERE saga = $1`, r.latest).Scan(&did)
		if want := r.sagas[r.latest].effects(changed); err != nil || !slices.Equal(did, want) {
			t.Errorf("by the changed graph it did %q, want %q (%v)", did, want, err)
		}
	})
}
