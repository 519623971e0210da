package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func initial(c guestCall) string { return c.Input.Name[:1] }

// noDeadlocks is about the whole database: what Postgres breaks up is repeated, and nobody would notice.
func noDeadlocks(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if n := queryInt(t, pool, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n > 0 {
		t.Errorf("%d deadlocks, want none", n)
	}
}

// Two limits of one step, four workers: no instant has more than either allows, and both are reached.
func TestTwoLimitsAtOnce(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const bank, sagas = 3, 60
		pool := sqltest.New(t)
		var bar crowd
		step := serve(pgengine.Limits(
			pgengine.Limit[guest]{Name: "bank", Concurrency: bank},
			pgengine.Limit[guest]{Name: "account", Concurrency: 1, Key: initial},
		), func(ctx context.Context, c guestCall) error {
			bar.visit(ctx, bank)
			if c.Attempt == 1 && strings.HasSuffix(c.Input.Name, "7") { // a failed attempt gives its places up
				return errors.New("not yet")
			}
			return nil
		})
		e := crew(t, pool, 4, cfg, guests(step))
		var ids []string
		for i := range sagas {
			ids = append(ids, start(t, e, guest{Name: fmt.Sprintf("%c%d", 'a'+i%4, i)}, nil).ID)
		}
		if states := wait(t, e, ids...); states[pgengine.Completed] != sagas {
			t.Errorf("%v, want %d completed", states, sagas)
		}
		if recorded := most(t, pool, "serve"); bar.peak != bank || recorded > bank {
			t.Errorf("%d at once by their own count, %d by the database's, want %d", bar.peak, recorded, bank)
		}
		each := queryInt(t, pool, `WITH s AS (SELECT r.*, left(s.input ->> 'name', 1) AS account FROM pgsagaz.step r JOIN pgsagaz.saga s ON s.id = r.saga_id)
			SELECT max((SELECT count(*) FROM s o WHERE o.account = s.account AND o.started_at <= s.started_at AND o.ended_at > s.started_at)) FROM s`)
		if each != 1 {
			t.Errorf("%d of one account at once, want 1", each)
		}
		noDeadlocks(t, pool)
	})
}

// Steps that name the same limits in opposite orders, and others with one of them: nobody waits for ever, and nobody in a circle.
func TestLimitsInOppositeOrders(t *testing.T) {
	t.Parallel()
	const sagas = 70
	pool := sqltest.New(t)
	x, y := pgengine.Limit[guest]{Name: "x", Concurrency: 2}, pgengine.Limit[guest]{Name: "y", Concurrency: 3}
	z := pgengine.Limit[guest]{Name: "m", Concurrency: 1, Key: initial} // between two others, and before both
	named := func(name string, limit pgengine.Limit[guest]) pgengine.Activity[guest, string] {
		a := serve(limit, func(context.Context, guestCall) error { return nil })
		a.Name = name
		return a
	}
	e := crew(t, pool, 4, jobs.Config{}, guests(
		named("xy", pgengine.Limits(x, y)), named("yx", pgengine.Limits(y, x)), named("yz", pgengine.Limits(y, z)), named("xz", pgengine.Limits(x, z)),
		named("x", x), named("y", y)))
	begun := time.Now()
	for i := range sagas {
		start(t, e, guest{Name: fmt.Sprintf("%c%d", 'a'+i%5, i)}, nil)
	}
	for queryInt(t, pool, `SELECT count(*) FROM pgsagaz.saga WHERE state = 'completed'`) < sagas {
		if noDeadlocks(t, pool); t.Failed() { // each takes a second: nobody waits for the end of that
			return
		}
		if t.Context().Err() != nil || time.Since(begun) > time.Minute {
			t.Fatal("they have not ended in a minute")
		}
		time.Sleep(20 * time.Millisecond)
	}
	noDeadlocks(t, pool)
	for name, limit := range map[string]int{"x": 2, "y": 3} {
		if n := queryInt(t, pool, `SELECT max((SELECT count(*) FROM pgsagaz.step o WHERE strpos(o.step, $1) > 0 AND o.started_at <= s.started_at AND o.ended_at > s.started_at))
			FROM pgsagaz.step s WHERE strpos(s.step, $1) > 0`, name); n > limit {
			t.Errorf("%d of %s at once, want %d at most", n, name, limit)
		}
	}
}

// The lines of a step are locked in one order, whatever the order of its limits: who waits for the first holds none of the others.
func TestLinesAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{guests(serve(pgengine.Limit[guest]{}, nil))}, Logger: quiet, NoWake: true})
	if err != nil {
		t.Fatal(err)
	}
	register(t, e)
	id := start(t, e, guest{Name: "a"}, nil).ID
	execute(t, pool, `INSERT INTO pgsagaz.limit_line (name, key, concurrency) VALUES ('a', '', 1), ('b', '', 1)`)
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // whatever has become of it
	if _, err := holder.Exec(t.Context(), `SELECT FROM pgsagaz.limit_line WHERE name = 'a' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	came := make(chan error, 1)
	go func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), `SELECT pgsagaz.limit_enter($1, '{running}', (SELECT id FROM pgsagaz.lane WHERE saga_id = $1), 1, '', 'do',
			'{b,a}', '{"",""}', '{1,1}', '{NULL,NULL}')`, id)
		came <- err
	}()
	for queryInt(t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := pool.Exec(t.Context(), `SELECT FROM pgsagaz.limit_line WHERE name = 'b' FOR UPDATE NOWAIT`); err != nil {
		t.Errorf("who waits for a holds b: %v", err)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-came; err != nil {
		t.Error(err)
	}
	if n := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.limit_place WHERE saga_id = $1 AND token = 1`, id); n != 2 {
		t.Errorf("it has %d places, want 2", n)
	}
}

// visit is the input of sagas that stay somewhere for a while. What limits them, and for how long they stay, is their version's.
type visit struct{ Key string }

func (visit) SagaName() string { return "visit" }

type visitCall = pgengine.Call[visit]

func visits(version int, stay time.Duration, limits ...pgengine.Limit[visit]) pgengine.Saga[visit] {
	come := pgengine.TxStep[visit, int]{Name: "come", Do: func(context.Context, pgx.Tx, visitCall) (int, error) { return 1, nil }}
	nap := pgengine.Sleep[visit]{Name: "nap", After: pgengine.Steps[visit](come), For: stay}
	return pgengine.Saga[visit]{Version: version, Limit: pgengine.Limits(limits...), Steps: pgengine.Steps[visit](come, nap)}
}

func ownKey(c visitCall) string { return c.Input.Key }

// house is a sandbox of visits whose clock stands still, but for what it is put forward.
type house struct {
	*pgenginetest.Sandbox
	t *testing.T
}

func newHouse(t *testing.T, sagas ...pgengine.Definition) *house {
	s := pgenginetest.NewSandbox(t, sqltest.New(t), sagas...)
	freeze(t, s)
	return &house{s, t}
}

func (h *house) visit(version int, key string) (id string) {
	return start(h.t, h.Engine, visit{Key: key}, &pgengine.StartOptions{Version: version}).ID
}

// began tells at which second a visit began; -1: it has not.
func (h *house) began(id string) int {
	h.t.Helper()
	return queryInt(h.t, h.Engine.Pool(), `SELECT coalesce(floor(extract(epoch FROM min(ended_at) - date_trunc('day', now()))), -1)::int FROM pgsagaz.step WHERE saga_id = $1`, id)
}

func (h *house) wantBegan(what, id string, second int) {
	h.t.Helper()
	if got := h.began(id); got != second {
		h.t.Errorf("%s began at second %d, want %d", what, got, second)
	}
}

// Two lines that are never free at one instant, as each has many who need it alone. Whoever needs both lets some go past, so that
// no place is idle for long, and not all of them.
func TestNobodyStarvesBetweenLines(t *testing.T) {
	t.Parallel()
	x, y := pgengine.Limit[visit]{Name: "x", Concurrency: 1}, pgengine.Limit[visit]{Name: "y", Concurrency: 1}
	h := newHouse(t, visits(1, 8*time.Second, x), visits(2, 8*time.Second, y), visits(3, time.Second, y, x))
	h.visit(1, "")
	h.Settle()
	h.Advance(4 * time.Second)
	h.visit(2, "")
	h.Settle()
	both := h.visit(3, "")
	h.Settle()
	var xs, ys []string
	for range 10 {
		xs, ys = append(xs, h.visit(1, "")), append(ys, h.visit(2, ""))
	}
	h.Run()
	h.wantBegan("the first of x", xs[0], 8) // past it: y is full
	h.wantBegan("the first of y", ys[0], 12)
	h.wantBegan("the second of x", xs[1], 16)
	h.wantBegan("the second of y", ys[1], 20)
	h.wantBegan("whoever needs both", both, 28) // x was kept for it since 24
	h.wantBegan("the third of x", xs[2], 29)
}

// He who waits for a full line takes no slot of a rate; he who waits for a rate keeps no place; each begins at the latest of his times.
func TestARateBesideAnotherLimit(t *testing.T) {
	t.Parallel()
	rate, seat := pgengine.Limit[visit]{Name: "rate", Rate: 1, Per: time.Minute}, pgengine.Limit[visit]{Name: "seat", Concurrency: 1}
	h := newHouse(t, visits(1, 150*time.Second, seat), visits(2, time.Second, rate, seat), visits(3, time.Second, rate))
	h.visit(1, "")
	h.Settle()
	both := h.visit(2, "")
	h.Settle()
	alone := []string{h.visit(3, ""), h.visit(3, ""), h.visit(3, "")}
	h.Run()
	h.wantBegan("the first of the rate", alone[0], 0)
	h.wantBegan("whoever needs both", both, 150)
	h.wantBegan("the second of the rate", alone[1], 210)
	h.wantBegan("the third of the rate", alone[2], 270)

	each := pgengine.Limit[visit]{Name: "each", Rate: 1, Per: time.Minute, Key: ownKey}
	h = newHouse(t, visits(1, 30*time.Second, pgengine.Limit[visit]{Name: "all", Rate: 10, Per: time.Minute}, each, pgengine.Limit[visit]{Name: "seat", Concurrency: 2}))
	a := []string{h.visit(1, "a"), h.visit(1, "a"), h.visit(1, "a")}
	b, c := h.visit(1, "b"), h.visit(1, "c")
	h.Run()
	h.wantBegan("a", a[0], 0)
	h.wantBegan("b", b, 6)  // with the next slot of all, past a's second
	h.wantBegan("c", c, 30) // which holds no seat either
	h.wantBegan("a's second", a[1], 60)
	h.wantBegan("a's third", a[2], 120)
}

// A worker that dies in a call loses all its places.
func TestADeadWorkersPlacesAreFree(t *testing.T) {
	t.Parallel()
	var n *counter
	crashes := 0
	n = newCounter(t, pgengine.Limits(
		pgengine.Limit[guest]{Name: "x", Concurrency: 1}, pgengine.Limit[guest]{Name: "y", Concurrency: 1, Key: initial, Undo: true},
		pgengine.Limit[guest]{Name: "z", Rate: 100},
	), func(c guestCall) error {
		if c.Input.Name == "a" && crashes < 2 {
			crashes++
			n.Crash()
		}
		return nil
	})
	a, b := n.Start(guest{Name: "a"}), n.Start(guest{Name: "b"})
	n.Run()
	if n.Get(a).State != pgengine.Completed || n.Get(b).State != pgengine.Completed || len(n.served) != 4 {
		t.Errorf("%s and %s after %v", n.Get(a).State, n.Get(b).State, n.served)
	}
	if n := queryInt(t, n.Engine.Pool(), `SELECT count(*) FROM pgsagaz.limit_place p JOIN pgsagaz.saga s ON s.id = p.saga_id WHERE s.ended_at IS NULL`); n != 0 {
		t.Errorf("%d places are left, want none", n)
	}
}

// One limit becomes two while sagas wait, and then one again: each has its turn, in the order in which it came.
func TestTheNumberOfLimitsChanges(t *testing.T) {
	t.Parallel()
	x, y := pgengine.Limit[visit]{Name: "x", Concurrency: 1}, pgengine.Limit[visit]{Name: "y", Concurrency: 1}
	others := []pgengine.Definition{visits(2, 100*time.Second, y), visits(3, time.Hour, y)}
	one, two := append(others, visits(1, 60*time.Second, x)), append(others[:2:2], visits(1, 60*time.Second, y, x))
	h := newHouse(t, one...)
	before := h.Engine
	after, err := pgengine.New(before.Pool(), pgengine.Config{Sagas: two, Logger: quiet, NoWake: true})
	if err != nil {
		t.Fatal(err)
	}
	full := h.visit(2, "")
	var ids []string
	for range 4 {
		ids = append(ids, h.visit(1, ""))
		h.Settle()
	}
	h.wantBegan("who fills y", full, 0)
	h.wantBegan("the first", ids[0], 0)
	h.Engine = after
	h.Advance(61 * time.Second) // the second is called in x, and finds that it needs y
	h.Settle()
	h.wantBegan("the second", ids[1], -1)
	h.Advance(40 * time.Second)
	h.Settle()
	h.wantBegan("the second", ids[1], 101)
	h.visit(3, "") // y is full for an hour when the second is through; the third waits in both
	h.Settle()
	h.Advance(61 * time.Second)
	h.Settle()
	h.wantBegan("the third", ids[2], 162) // it has come before whoever wants y for an hour
	h.Advance(61 * time.Second)
	h.Settle()
	h.wantBegan("the fourth", ids[3], 223)
	for range 2 {
		ids = append(ids, h.visit(1, ""))
		h.Settle()
	}
	h.Advance(61 * time.Second)
	h.Settle()
	h.wantBegan("the fifth", ids[4], -1) // y
	h.Engine = before
	h.Advance(5 * time.Minute) // nobody calls it: it asks again
	h.Settle()
	h.wantBegan("the fifth", ids[4], 584)
	h.Run()
	if got := h.began(ids[5]); got < 644 || got > 700 {
		t.Errorf("the sixth began at second %d, want one from 644 on", got)
	}
}

// Called in all of its lines, and there is no worker to come: after 30 seconds it stands at the end of all of them.
func TestCalledInTwoLinesAndNotCome(t *testing.T) {
	t.Parallel()
	x, y := pgengine.Limit[visit]{Name: "x", Concurrency: 1}, pgengine.Limit[visit]{Name: "y", Concurrency: 1}
	h := newHouse(t, visits(1, 60*time.Second, x, y))
	pool := h.Engine.Pool()
	var ids []string
	for range 3 {
		ids = append(ids, h.visit(1, ""))
		h.Settle()
	}
	h.Advance(61 * time.Second)
	inLine := `SELECT count(*) FROM pgsagaz.limit_place WHERE saga_id = $1 AND at IS NULL`
	for h.began(ids[1]) < 0 && queryInt(t, pool, inLine, ids[1]) > 0 { // the second is called as the first ends
		h.Work()
	}
	if n := queryInt(t, pool, inLine, ids[2]); n != 2 || h.began(ids[1]) != -1 {
		t.Fatalf("the third stands in %d lines, and the second began at %d", n, h.began(ids[1]))
	}
	h.Advance(31 * time.Second)
	execute(t, pool, sql.SweepLimits)
	if called, waits := queryInt(t, pool, inLine, ids[2]), queryInt(t, pool, inLine, ids[1]); called != 0 || waits != 2 {
		t.Errorf("the third stands in %d lines and the second in %d, want 0 and 2", called, waits)
	}
	h.Run()
	h.wantBegan("the third", ids[2], 92)
	h.wantBegan("the second", ids[1], 152)
}

// Whatever limits the versions of a saga have, however many of them at once, and whatever operators do meanwhile: no instant has more than any
// line allows, no place is without the others of its lane, and all end.
func TestLimitsOfRandomSagas(t *testing.T) {
	t.Parallel()
	limits := []pgengine.Limit[visit]{
		{Name: "a", Concurrency: 1}, {Name: "b", Concurrency: 2}, {Name: "c", Concurrency: 1, Key: ownKey},
		{Name: "d", Rate: 1, Per: 3 * time.Second}, {Name: "e", Rate: 2, Per: 10 * time.Second, Concurrency: 2, Key: ownKey},
	}
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 2))
			var sagas []pgengine.Definition
			has := map[int][]string{}
			for version := 1; version <= 6; version++ {
				var own []pgengine.Limit[visit]
				for _, i := range r.Perm(len(limits))[:1+r.IntN(len(limits)-1)] {
					own = append(own, limits[i])
					has[version] = append(has[version], limits[i].Name)
				}
				sagas = append(sagas, visits(version, time.Duration(1+r.IntN(9))*time.Second, own...))
			}
			h := newHouse(t, sagas...)
			h.Seed = int64(seed)
			pool := h.Engine.Pool()
			by := pgengine.By{Reason: "chance"}
			paused := map[string]bool{} // those that ever were: whether they still are
			var ids []string
			for event := range 60 {
				var id string
				if len(ids) > 0 {
					id = ids[r.IntN(len(ids))]
				}
				switch n := r.IntN(12); {
				case n < 5 || id == "":
					ids = append(ids, h.visit(1+r.IntN(6), string(rune('x'+r.IntN(2)))))
				case n < 8:
					h.Work()
				case n < 9:
					for range r.IntN(20) { // whoever is called comes in time, or a rate could not be told
						h.Settle()
						h.Advance(200 * time.Millisecond)
					}
				case h.Get(id).State.Ended():
				case n < 10:
					h.Tx(func(tx pgx.Tx) error { return h.Engine.Cancel(t.Context(), tx, id, by) })
				default:
					h.Tx(func(tx pgx.Tx) error {
						if paused[id] = !paused[id]; paused[id] {
							return h.Engine.Pause(t.Context(), tx, id, by)
						}
						return h.Engine.Resume(t.Context(), tx, id, by)
					})
				}
				if event%4 > 0 {
					continue
				}
				if found, err := sql.Check(t.Context(), pool); err != nil || len(found) > 0 {
					t.Fatal(found, err)
				}
			}
			h.Run()
			for id, still := range paused {
				if !still || h.Get(id).State.Ended() {
					continue
				}
				h.Tx(func(tx pgx.Tx) error { return h.Engine.Resume(t.Context(), tx, id, by) })
			}
			h.Run()
			if n := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NULL`); n != 0 {
				t.Errorf("%d sagas have not ended", n)
			}
			for _, l := range limits {
				var versions []int
				for version, names := range has {
					for _, name := range names {
						if name == l.Name {
							versions = append(versions, version)
						}
					}
				}
				spans := `WITH span AS (SELECT CASE WHEN $2 THEN s.input ->> 'Key' ELSE '' END AS key, s.id, min(o.ended_at) AS began, s.ended_at AS ended
					FROM pgsagaz.saga s JOIN pgsagaz.step o ON o.saga_id = s.id WHERE s.version = ANY ($1) GROUP BY s.id) `
				if l.Concurrency > 0 {
					if n := queryInt(t, pool, spans+`SELECT coalesce(max((SELECT count(*) FROM span o WHERE o.key = s.key AND o.began <= s.began AND o.ended > s.began)), 0) FROM span s`,
						versions, l.Key != nil); n > l.Concurrency {
						t.Errorf("%s: %d at once, want %d at most", l.Name, n, l.Concurrency)
					}
				}
				if l.Rate > 0 {
					spacing := l.Per / time.Duration(l.Rate)
					if n := queryInt(t, pool, spans+`SELECT count(*) FROM span s JOIN span o ON o.key = s.key AND o.began > s.began AND o.began < s.began + $3
						WHERE s.id <> ALL ($4) AND o.id <> ALL ($4)`, versions, l.Key != nil, spacing-250*time.Millisecond, slices.Collect(maps.Keys(paused))); n > 0 {
						t.Errorf("%s: %d began less than %v after another", l.Name, n, spacing)
					}
				}
			}
		})
	}
}

// Limits that make no sense together are refused with the definition, by name.
func TestSeveralLimitsThatAreRefused(t *testing.T) {
	t.Parallel()
	one := pgengine.Limit[guest]{Concurrency: 1}
	bank := pgengine.Limit[guest]{Name: "bank", Concurrency: 1}
	account := pgengine.Limit[guest]{Name: "account", Concurrency: 1, Key: initial}
	other := account
	other.Concurrency = 2
	set := pgengine.Limits(bank)
	set.Concurrency = 3
	many := make([]pgengine.Limit[guest], 9)
	for i := range many {
		many[i] = pgengine.Limit[guest]{Name: fmt.Sprint(i), Concurrency: 1}
	}
	for want, limit := range map[string]pgengine.Limit[guest]{
		`two of its Limits are named "bank", and not both have a Key`:                                     pgengine.Limits(bank, account, bank),
		`two of its Limits are named "guest`:                                                              pgengine.Limits(one, one),
		`two of its Limits are named "account": one is 1 at once each key, and one is 2 at once each key`: pgengine.Limits(account, other),
		"negative":          pgengine.Limits(bank, pgengine.Limit[guest]{Concurrency: -1}),
		"fields of its own": set,
		"9 limits at once, at most 8 are allowed": pgengine.Limits(many...),
	} {
		if _, err := pgengine.Outline(guests(serve(limit, nil))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that says %s", err, want)
		}
		saga := guests(serve(pgengine.Limit[guest]{}, nil))
		saga.Limit = limit
		if _, err := pgengine.Outline(saga); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("saga: %v, want an error that says %s", err, want)
		}
	}
	saga := guests(serve(pgengine.Limits(account, bank), nil))
	saga.Limit = pgengine.Limits(bank)
	if _, err := pgengine.Outline(saga); err == nil || !strings.Contains(err.Error(), `its Limit "bank" is its saga's, too`) {
		t.Errorf("%v, want a refusal of a step that waits for its saga's place", err)
	}
}

// Two limits of one name and two keys, as of an account that pays and one that is paid: one place, if they are the same.
func TestTwoKeysOfOneLimit(t *testing.T) {
	t.Parallel()
	last := func(c guestCall) string { return c.Input.Name[len(c.Input.Name)-1:] }
	n := newCounter(t, pgengine.Limits(pgengine.Limits[guest](), pgengine.Limit[guest]{},
		pgengine.Limit[guest]{Name: "account", Concurrency: 1, Key: initial}, pgengine.Limit[guest]{Name: "account", Concurrency: 1, Key: last}), nil)
	for _, name := range []string{"ab", "ba", "aa"} {
		n.Start(guest{Name: name})
	}
	n.Run()
	if got := strings.Join(n.served, " "); got != "ab ba aa" {
		t.Errorf("served %s", got)
	}
	if n := queryInt(t, n.Engine.Pool(), `SELECT count(*) FROM pgsagaz.limit_line WHERE name = 'account'`); n != 2 {
		t.Errorf("%d lines, want those of a and b", n)
	}
}
