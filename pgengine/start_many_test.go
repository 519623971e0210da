package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func startMany(ctx context.Context, pool *pgxpool.Pool, e *pgengine.Engine, items []pgengine.StartItem, opts *pgengine.StartOptions) (all []pgengine.Started, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		all, err = e.StartMany(ctx, tx, items, opts)
		return err
	})
	return all, err
}

// More than one statement takes: each is the saga of its input, and they run.
func TestStartMany(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	register(t, e)
	items := make([]pgengine.StartItem, 1001)
	for i := range items {
		items[i].Input = part{ID: fmt.Sprint(i)}
	}
	with := &pgengine.StartOptions{Tags: []string{"bulk"}, Timeout: time.Hour}
	all, err := startMany(t.Context(), pool, e, items, with)
	if err != nil || len(all) != len(items) {
		t.Fatalf("%d started, %v", len(all), err)
	}
	if !slices.IsSortedFunc(all, func(a, b pgengine.Started) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("their ids are not in their order")
	}

	// Row by row they are what Start makes of one.
	one := start(t, e, part{ID: "0"}, with)
	for _, rows := range []string{
		`SELECT to_jsonb(s) - 'id' - 'created_at' - 'deadline' FROM pgsagaz.saga s WHERE id = $1`,
		`SELECT to_jsonb(l) - 'id' - 'saga_id' - 'job_id' - 'run_at' FROM pgsagaz.lane l WHERE saga_id = $1`,
		`SELECT to_jsonb(d) - 'saga_id' - 'due_at' FROM pgsagaz.deadline d WHERE saga_id = $1`,
		`SELECT to_jsonb(j) - 'id' - 'created_at' - 'scheduled_at' || jsonb_build_object(
		        'args', j.args - 'saga_id' || jsonb_build_object('lane', l.id = (j.args ->> 'lane')::bigint), 'metadata', j.metadata - 'saga_id')
		 FROM pgsagaz.lane l JOIN pgsagaz.river_job j ON j.id = l.job_id
		 WHERE l.saga_id = $1 AND j.args ->> 'saga_id' = $1::text AND j.metadata ->> 'saga_id' = $1::text`,
	} {
		if got, want := query[string](t, pool, rows, all[0].ID), query[string](t, pool, rows, one.ID); got != want {
			t.Errorf("%s\n%s\nwant\n%s", rows, got, want)
		}
	}

	work(t, e)
	for _, i := range []int{0, 999, 1000} {
		if s := await(t, e, all[i].ID, pgengine.Completed); string(s.Output) != fmt.Sprintf("%q", fmt.Sprint(i)) || !slices.Equal(s.Tags, with.Tags) || s.Deadline == nil {
			t.Errorf("the saga of item %d: %s, tags %v, deadline %v", i, s.Output, s.Tags, s.Deadline)
		}
	}
	if all, err := startMany(t.Context(), pool, e, nil, nil); err != nil || len(all) > 0 {
		t.Errorf("none: %v, %v", all, err)
	}
}

// A key that has come before, among the items or at any time, gives the saga of then.
func TestStartManyWithKeys(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	before := start(t, e, part{ID: "x"}, &pgengine.StartOptions{Key: "x"})
	items := []pgengine.StartItem{
		{Input: part{ID: "z"}, Key: "z"}, {Input: part{ID: "x"}, Key: "x"}, {Input: part{ID: "a"}, Key: "a"},
		{Input: part{ID: "free"}}, {Input: part{ID: "z"}, Key: "z"},
	}
	all, err := startMany(t.Context(), pool, e, items, nil)
	if err != nil {
		t.Fatal(err)
	}
	existed := ""
	for _, s := range all {
		existed += fmt.Sprintf("%t %d ", s.Existed, s.Version)
	}
	if existed != "false 1 true 1 false 1 false 1 true 1 " || all[1].ID != before.ID || all[4].ID != all[0].ID {
		t.Errorf("existed %s\n%+v", existed, all)
	}
	if again, err := startMany(t.Context(), pool, e, items[:3], nil); err != nil || again[0].ID != all[0].ID || again[2].ID != all[2].ID || !again[0].Existed {
		t.Errorf("again: %+v, %v", again, err)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.saga`); n != 4 {
		t.Errorf("%d sagas, want 4", n)
	}
}

// What is wrong is named, and nothing is started.
func TestStartManyRefuses(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	good := pgengine.StartItem{Input: part{ID: "x"}, Key: "x"}
	for _, tt := range []struct {
		name  string
		items []pgengine.StartItem
		opts  *pgengine.StartOptions
		is    error
		says  string
	}{
		{"another name", []pgengine.StartItem{good, {Input: returned{}}}, nil, nil, "item 1 is of saga return, and those before it of part"},
		{"no input", []pgengine.StartItem{good, {}}, nil, nil, "item 1"},
		{"too large", []pgengine.StartItem{good, {Input: part{ID: strings.Repeat("x", 1<<20)}}}, nil, pgengine.ErrTooLarge, "item 1: "},
		{"two inputs", []pgengine.StartItem{good, {Input: part{ID: "y"}, Key: "x"}}, nil, pgengine.ErrOtherInput, "with key x was started with another input"},
		{"a long key", []pgengine.StartItem{good, {Input: part{}, Key: strings.Repeat("k", 513)}}, nil, nil, "item 1: its key has 513 bytes"},
		{"a key for all", []pgengine.StartItem{good}, &pgengine.StartOptions{Key: "k"}, nil, `the key "k" stands in the options`},
		{"unknown version", []pgengine.StartItem{good}, &pgengine.StartOptions{Version: 9}, pgengine.ErrUnknownSaga, "part version 9"},
	} {
		all, err := startMany(t.Context(), pool, e, tt.items, tt.opts)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || all != nil {
			t.Errorf("%s: %v, want an error that says %s", tt.name, err, tt.says)
		}
	}
	if n := rows(t, pool); len(n) > 0 {
		t.Errorf("rows are left: %v", n)
	}
}

// Two that start the same keys, in opposite orders, do not wait for each other in a ring: each key has one saga.
func TestStartManyAtOnce(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	items := make([]pgengine.StartItem, 1500)
	for i := range items {
		items[i] = pgengine.StartItem{Input: part{ID: fmt.Sprint(i)}, Key: fmt.Sprint(i)}
	}
	back := slices.Clone(items)
	slices.Reverse(back)
	var wg sync.WaitGroup
	for range 3 {
		for _, some := range [][]pgengine.StartItem{items, back} {
			wg.Go(func() {
				if _, err := startMany(t.Context(), pool, e, some, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.saga`); n != len(items) {
		t.Errorf("%d sagas, want %d", n, len(items))
	}
}

// Inputs are encrypted under their own subjects, and an erased one is refused.
func TestStartManyEncrypted(t *testing.T) {
	d := newDesk(t)
	pool, e := d.pool, d.Engine
	items := []pgengine.StartItem{{Input: letter{Of: "ann", Text: secret}, Key: "1"}, {Input: letter{Of: "bob", Text: secret}}}
	all, err := startMany(t.Context(), pool, e, items, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, pool, `SELECT count(DISTINCT data_key) FROM pgsagaz.saga WHERE input::text NOT LIKE '%' || $1 || '%'`, secret); n != 2 {
		t.Errorf("%d keys, want 2", n)
	}
	if again, err := startMany(t.Context(), pool, e, items[:1], nil); err != nil || again[0].ID != all[0].ID {
		t.Errorf("again: %+v, %v, want saga %s", again, err, all[0].ID)
	}
	if _, err := d.erase("bob", true); err != nil {
		t.Fatal(err)
	}
	if _, err := startMany(t.Context(), pool, e, items, nil); !errors.Is(err, codec.ErrErased) {
		t.Errorf("%v, want that bob was erased", err)
	}
}

// In SQL, whoever asks again with the ids and keys of before gets the sagas of then, live or archived, and is told of another input.
func TestStartManyAgainWithTheSameIDs(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	register(t, e)
	const id = "0190a0b0-0000-7000-8000-000000000001"
	again := func(input string) (existed bool, err error) {
		err = pool.QueryRow(t.Context(), `SELECT existed FROM pgsagaz.start_many('part', ARRAY[$1::uuid], ARRAY[$2::json], ARRAY['k'])`, id, input).Scan(&existed)
		return existed, err
	}
	if existed, err := again(`{"ID":"1"}`); existed || err != nil {
		t.Fatalf("existed %t, %v", existed, err)
	}
	check := func(when string) {
		t.Helper()
		if existed, err := again(`{"ID":"1"}`); !existed || err != nil {
			t.Errorf("%s: existed %t, %v", when, existed, err)
		}
		if _, err := again(`{"ID":"2"}`); err == nil || !strings.Contains(err.Error(), "was started with another input") {
			t.Errorf("%s, with another input: %v", when, err)
		}
	}
	check("live")
	work(t, e)
	await(t, e, id, pgengine.Completed)
	execute(t, pool, `SELECT pgsagaz.archive_batch(pgsagaz.now() + interval '1 day', 10)`)
	check("archived")
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.saga`); n != 0 {
		t.Errorf("%d sagas are live, want none", n)
	}
}

// An open transaction that has started sagas keeps nobody from the archive, and the archiver from nothing.
func TestStartManyLeavesTheArchiveAlone(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e := engine(t, pool, echo(1))
	register(t, e)
	id := start(t, e, part{ID: "x"}, nil).ID
	stop := work(t, e)
	await(t, e, id, pgengine.Completed)
	stop()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := e.StartMany(t.Context(), tx, []pgengine.StartItem{{Input: part{ID: "y"}, Key: "y"}}, nil); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, pool, `SELECT pgsagaz.archive_batch(pgsagaz.now() + interval '1 day', 10)`); n != 1 { // it makes the day's partition
		t.Errorf("%d archived, want 1", n)
	}
	if s, err := e.Get(t.Context(), id); err != nil || !s.Archived {
		t.Errorf("%+v, %v", s, err)
	}
}

// Two that start sagas of the same new subjects, in opposite orders, do not wait for each other in a ring.
func TestStartManyOfTheSameSubjects(t *testing.T) {
	d := newDesk(t)
	items := make([]pgengine.StartItem, 300)
	for i := range items {
		items[i].Input = letter{Of: fmt.Sprint("subject ", i)}
	}
	back := slices.Clone(items)
	slices.Reverse(back)
	var wg sync.WaitGroup
	for _, some := range [][]pgengine.StartItem{items, back} {
		wg.Go(func() {
			if _, err := startMany(t.Context(), d.pool, d.Engine, some, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
