package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// archive moves what has ended an hour ago into the archive, and says how many sagas that were.
func (p play) archive() int {
	p.t.Helper()
	return query[int](p.t, p.Engine.Pool(), sql.ArchiveBatch, time.Hour.Seconds(), 100)
}

// plain is a status as text, in one time zone, and with "no result" and a result of null alike.
func plain(t *testing.T, s pgengine.Status) string {
	t.Helper()
	utc := func(times ...*time.Time) {
		for _, at := range times {
			*at = at.UTC()
		}
	}
	utc(&s.CreatedAt, s.EndedAt)
	for i := range s.Steps {
		utc(s.Steps[i].StartedAt, s.Steps[i].EndedAt)
		if string(s.Steps[i].Result) == "null" {
			s.Steps[i].Result = nil
		}
	}
	for i := range s.Attempts {
		utc(&s.Attempts[i].StartedAt, &s.Attempts[i].EndedAt)
	}
	for i := range s.Signals {
		utc(&s.Signals[i].SentAt)
	}
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestArchive: what has ended moves out of the live tables, with its children, and reads as before.
func TestArchive(t *testing.T) {
	c := &calls{}
	a := c.does("a", failsTimes(1))
	w, by := c.approved("w", a)
	trip := child{Name: "trip", After: steps(by), Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Output: trip, Steps: steps(a, w, by, trip)}, c, legs(c))
	begin := func(key string) (id string) {
		p.Tx(func(tx pgx.Tx) error {
			s, err := p.Engine.Start(t.Context(), tx, fault{Note: "zero \x00 byte"}, &pgengine.StartOptions{Key: key, Tags: []string{"blue"}})
			id = s.ID
			return err
		})
		return id
	}
	done, back, open := begin("done"), begin("back"), begin("open")
	p.signal(done, approval{"Ann"})
	for p.Get(back).State != pgengine.Compensated || p.Get(done).State != pgengine.Completed {
		if !p.Work() {
			p.cancel(back)
			p.Advance(time.Second)
		}
	}
	before := map[string]pgengine.Status{}
	kid := p.Get(done).Children[0].ID
	for _, id := range []string{done, back, kid} {
		before[id] = p.Get(id)
	}
	if n := p.archive(); n != 0 {
		t.Fatalf("%d sagas that have just ended are archived", n)
	}
	p.Advance(2 * time.Hour)
	if n := p.archive(); n != 3 {
		t.Fatalf("%d sagas are archived, want two and a child", n)
	}
	for id, was := range before {
		is := p.Get(id)
		if !is.Archived {
			t.Errorf("%s is not archived", id)
		}
		is.Archived = false
		if was, is := plain(t, was), plain(t, is); was != is {
			t.Errorf("it was\n%s\nand in the archive it is\n%s", was, is)
		}
		if s, err := p.Engine.Wait(t.Context(), id); err != nil || s.State != was.State || s.Steps != nil {
			t.Errorf("Wait: %+v, %v", s, err)
		}
		if err := pgx.BeginFunc(t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error { return p.Engine.Cancel(t.Context(), tx, id, pgengine.By{}) }); !errors.Is(err, pgengine.ErrEnded) {
			t.Errorf("Cancel: %v", err)
		}
	}
	if n := queryInt(t, p.Engine.Pool(), `SELECT count(*) FROM pgsagaz.saga`); n != 1 || p.Get(open).State != pgengine.Running {
		t.Errorf("%d sagas live", n)
	}
	count := func(f pgengine.Filter) (n int) {
		for s, err := range p.Engine.List(t.Context(), f) {
			if err != nil || s.Archived != f.Archived {
				t.Errorf("%+v, %v", s, err)
			}
			n++
		}
		return n
	}
	if all, blue, completed, live := count(pgengine.Filter{Archived: true}), count(pgengine.Filter{Archived: true, Tag: "blue"}),
		count(pgengine.Filter{Archived: true, Name: "fault", States: []pgengine.State{pgengine.Completed}}), count(pgengine.Filter{}); all != 3 || blue != 2 || completed != 1 || live != 1 {
		t.Errorf("listed %d, %d, %d and %d", all, blue, completed, live)
	}

	// The start key outlives it, for as long as it is kept.
	p.Tx(func(tx pgx.Tx) error {
		s, err := p.Engine.Start(t.Context(), tx, fault{Note: "zero \x00 byte"}, &pgengine.StartOptions{Key: "done"})
		if !s.Existed || s.ID != done || s.Version != 1 {
			t.Errorf("%+v", s)
		}
		return err
	})
	retain := func(archive, keys *float64) (dropped []string) {
		return query[[]string](t, p.Engine.Pool(), sql.ArchiveRetain, archive, keys)
	}
	day := (24 * time.Hour).Seconds()
	if dropped := retain(nil, nil); len(dropped) > 0 || queryInt(t, p.Engine.Pool(), `SELECT count(*) FROM pgsagaz.start_key`) != 4 {
		t.Errorf("dropped %v", dropped)
	}
	p.Advance(100 * time.Hour)
	if dropped := retain(&day, &day); len(dropped) == 0 {
		t.Error("nothing is dropped")
	}
	if _, err := p.Engine.Get(t.Context(), done); !errors.Is(err, pgengine.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if n := queryInt(t, p.Engine.Pool(), `SELECT count(*) FROM pgsagaz.start_key`); n != 1 {
		t.Errorf("%d start keys, want that of the saga that lives", n)
	}
}

// A family moves as a whole: a parent that has ended waits for a child that has not.
func TestAFamilyIsArchivedTogether(t *testing.T) {
	c := &calls{}
	stuck := legs(c)
	fork := stuck.Steps[0].(pgengine.Activity[leg, int])
	fork.UndoRetry = once
	fork.Undo = func(context.Context, legCall, int) error { return errNo }
	stuck.Steps = pgengine.Steps[leg](fork, pgengine.Activity[leg, int]{
		Name: "no", After: pgengine.Steps[leg](fork), Retry: once, Do: func(context.Context, legCall) (int, error) { return 0, pgengine.Terminal(errNo) },
	})
	stuck.Output = nil
	trip := child{Name: "trip", Input: oneLeg(leg{N: 1}), Optional: true}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(trip)}, c, stuck)
	id := p.Start(fault{})
	p.Run()
	kid := p.Get(id).Children[0].ID
	if p.Get(kid).State != pgengine.Stuck || p.Get(id).State.Ended() {
		t.Fatalf("%s in %s", p.Get(kid).State, p.Get(id).State)
	}
	p.Advance(48 * time.Hour)
	if n := p.archive(); n != 0 {
		t.Errorf("%d sagas are archived", n)
	}
	p.resolve(kid, "a", pgengine.Resolution{Outcome: pgengine.OutcomeDone})
	p.Run()
	p.Advance(48 * time.Hour)
	if n := p.archive(); n != 2 {
		t.Errorf("%d sagas are archived, want both", n)
	}
}

// A family that has to stay, as one of it has not ended, does not keep those behind it in the live tables.
func TestWhatMustStayDoesNotBlockTheArchive(t *testing.T) {
	c := &calls{}
	trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(trip)}, c, legs(c))
	stays, goes := p.Start(fault{}), p.Start(fault{})
	p.Run()
	kid := p.Get(stays).Children[0].ID
	// As if a result had come after the child's end, and its undo had given up.
	execute(t, p.Engine.Pool(), `UPDATE pgsagaz.saga SET state = 'stuck', cause = '{}', ended_at = NULL WHERE id = $1`, kid)
	defer func() {
		execute(t, p.Engine.Pool(), `ALTER TABLE pgsagaz.saga DISABLE TRIGGER saga_transition`)
		execute(t, p.Engine.Pool(), `UPDATE pgsagaz.saga SET state = 'completed', cause = NULL, ended_at = pgsagaz.now() WHERE id = $1`, kid)
	}()
	p.Advance(48 * time.Hour)
	if n := query[int](t, p.Engine.Pool(), sql.ArchiveBatch, time.Hour.Seconds(), 1); n != 2 || !p.Get(goes).Archived || p.Get(stays).Archived {
		t.Errorf("%d sagas are archived", n)
	}
}
