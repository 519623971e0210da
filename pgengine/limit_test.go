package pgengine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
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

var aMinute = flag.Bool("limits.minute", false, "watch a rate limit for a minute of real time")

// guest is the input of sagas that stand in line.
type guest struct {
	Name string `json:"name"`
	Bad  bool   `json:"bad,omitempty"`
}

func (guest) SagaName() string { return "guest" }

type guestCall = pgengine.Call[guest]

// serve is an activity behind a limit.
func serve(limit pgengine.Limit[guest], do func(ctx context.Context, c guestCall) error) pgengine.Activity[guest, string] {
	return pgengine.Activity[guest, string]{
		Name: "serve", Limit: limit, Retry: pgengine.Retry{MaxAttempts: 3, Initial: 10 * time.Millisecond},
		Do: func(ctx context.Context, c guestCall) (string, error) { return c.Input.Name, do(ctx, c) },
	}
}

func guests(steps ...pgengine.Step[guest]) pgengine.Saga[guest] {
	return pgengine.Saga[guest]{Version: 1, Steps: steps}
}

// crew starts workers of their own engines and pools on one database.
func crew(t *testing.T, pool *pgxpool.Pool, n int, cfg jobs.Config, sagas ...pgengine.Definition) *pgengine.Engine {
	t.Helper()
	var first *pgengine.Engine
	for range n {
		config := pool.Config()
		config.MaxConns = 6
		sql.WakeOnCommit(config)
		own, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(own.Close)
		e, err := pgengine.New(own, pgengine.Config{Sagas: sagas, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		workWith(t, e, cfg)
		first = e
	}
	return first
}

// crowd counts who is inside at once. Whoever comes stays until as many as may be there have met once, so that they are
// there at one time on a busy machine, too.
type crowd struct {
	mu           sync.Mutex
	inside, peak int
	met          chan struct{}
}

func (c *crowd) visit(ctx context.Context, limit int) {
	c.mu.Lock()
	if c.met == nil {
		c.met = make(chan struct{})
	}
	c.inside++
	if c.peak = max(c.peak, c.inside); c.inside == limit && c.peak == limit {
		select {
		case <-c.met:
		default:
			close(c.met)
		}
	}
	met := c.met
	c.mu.Unlock()
	select {
	case <-met:
	case <-ctx.Done():
	}
	time.Sleep(3 * time.Millisecond)
	c.mu.Lock()
	c.inside--
	c.mu.Unlock()
}

// most is how many of a step's runs there were at one instant, at most, by what the database has recorded.
func most(t *testing.T, pool *pgxpool.Pool, step string) int {
	t.Helper()
	return queryInt(t, pool, `SELECT max((SELECT count(*) FROM pgsagaz.step o
		WHERE o.step = s.step AND o.direction = s.direction AND o.started_at <= s.started_at AND o.ended_at > s.started_at))
		FROM pgsagaz.step s WHERE s.step = $1 AND s.direction = 'do' AND s.outcome = 'done'`, step)
}

// Four workers and more sagas than places: no instant has more running than the limit, the limit is reached, and all have their turn.
func TestConcurrencyLimit(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const limit, sagas = 3, 60
		pool := sqltest.New(t)
		var bar crowd
		arrive := pgengine.TxStep[guest, int]{Name: "arrive", Do: func(context.Context, pgx.Tx, guestCall) (int, error) { return 1, nil }}
		first := serve(pgengine.Limit[guest]{Concurrency: limit}, func(ctx context.Context, c guestCall) error {
			bar.visit(ctx, limit)
			if c.Attempt == 1 && strings.HasSuffix(c.Input.Name, "7") { // a failed attempt gives its place up
				return errors.New("not yet")
			}
			return nil
		})
		first.After = pgengine.Steps(arrive)
		second := pgengine.TxStep[guest, int]{
			Name: "book", After: pgengine.Steps(first), Limit: pgengine.Limit[guest]{Concurrency: 2},
			Do: func(ctx context.Context, tx pgx.Tx, _ guestCall) (int, error) {
				_, err := tx.Exec(ctx, `SELECT pg_sleep(0.003)`)
				return 1, err
			},
		}
		e := crew(t, pool, 4, cfg, guests(arrive, first, second))
		var ids []string
		for i := range sagas {
			ids = append(ids, start(t, e, guest{Name: fmt.Sprint(i)}, nil).ID)
		}
		if states := wait(t, e, ids...); states[pgengine.Completed] != sagas {
			t.Errorf("%v, want %d completed", states, sagas)
		}
		// The rows tell the beginning of a call by its end and how long it took: later than it was, if anything.
		if recorded := most(t, pool, "serve"); bar.peak != limit || recorded > limit {
			t.Errorf("%d at once by their own count, %d by the database's, want %d", bar.peak, recorded, limit)
		}
		if n := most(t, pool, "book"); n > 2 {
			t.Errorf("%d booked at once, want 2 at most", n)
		}
	})
}

// A limit of sagas: from their first step to their end.
func TestSagaLimit(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const limit, sagas = 2, 24
		pool := sqltest.New(t)
		bars := map[string]*crowd{"x": {}, "y": {}}
		a := pgengine.TxStep[guest, int]{Name: "a", Do: func(context.Context, pgx.Tx, guestCall) (int, error) { return 1, nil }}
		b := pgengine.Activity[guest, int]{Name: "b", After: pgengine.Steps(a), Do: func(ctx context.Context, c guestCall) (int, error) {
			bars[c.Input.Name].visit(ctx, limit)
			if c.Input.Bad {
				return 0, pgengine.Terminal(errors.New("no"))
			}
			return 1, nil
		}}
		saga := guests(a, b)
		saga.Limit = pgengine.Limit[guest]{Concurrency: limit, Key: func(c guestCall) string { return c.Input.Name }}
		e := crew(t, pool, 2, cfg, saga)
		var ids []string
		for i := range sagas {
			ids = append(ids, start(t, e, guest{Name: string(rune('x' + i%2)), Bad: i%5 == 0}, nil).ID)
		}
		wait(t, e, ids...)
		most := queryInt(t, pool, `WITH span AS (
				SELECT s.id, s.input ->> 'name' AS key, min(r.started_at) AS began, s.ended_at AS ended
				FROM pgsagaz.saga s JOIN pgsagaz.step r ON r.saga_id = s.id GROUP BY s.id)
			SELECT max((SELECT count(*) FROM span o WHERE o.key = s.key AND o.began <= s.began AND o.ended > s.began)) FROM span s`)
		if most > limit || bars["x"].peak != limit || bars["y"].peak != limit {
			t.Errorf("%d sagas of a key at once by what is recorded, %d and %d by their own count, want %d", most, bars["x"].peak, bars["y"].peak, limit)
		}
	})
}

// counter is a sandbox in which guests are served, and who was in which order.
type counter struct {
	*pgenginetest.Sandbox
	served []string
}

func newCounter(t *testing.T, limit pgengine.Limit[guest], more func(c guestCall) error) *counter {
	n := &counter{}
	step := serve(limit, func(_ context.Context, c guestCall) error {
		n.served = append(n.served, c.Input.Name)
		if more != nil {
			return more(c)
		}
		return nil
	})
	step.Undo = func(_ context.Context, c guestCall, _ string) error {
		n.served = append(n.served, "-"+c.Input.Name)
		return nil
	}
	n.Sandbox = pgenginetest.NewSandbox(t, sqltest.New(t), guests(step))
	return n
}

// freeze has the clock of a sandbox stand still, but for what it is put forward: a busy machine makes no difference.
func freeze(t *testing.T, s *pgenginetest.Sandbox) {
	t.Helper()
	execute(t, s.Engine.Pool(), `CREATE OR REPLACE FUNCTION pgsagaz.now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
		AS 'SELECT date_trunc(''day'', now()) + ahead FROM pgsagaz.test_clock'`)
}

// A rate holds minute by minute, whether many stand in line or one comes now and then.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	const rate = 40
	for name, limit := range map[string]pgengine.Limit[guest]{
		"rate":        {Rate: rate, Per: time.Minute},
		"rate and 50": {Rate: rate, Per: time.Minute, Concurrency: 50},
		"rate and 1":  {Rate: rate, Per: time.Minute, Concurrency: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newCounter(t, limit, nil)
			freeze(t, n.Sandbox)
			for i := range 3 * rate {
				n.Start(guest{Name: fmt.Sprint(i)})
			}
			n.Run()
			pool := n.Engine.Pool()
			for minute := range 2 {
				served := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.step WHERE ended_at - (SELECT min(ended_at) FROM pgsagaz.step)
					BETWEEN make_interval(mins => $1) AND make_interval(mins => $1 + 1)`, minute)
				if served < rate*95/100 || served > rate*105/100 {
					t.Errorf("%d served in minute %d, want %d", served, minute, rate)
				}
			}
			if n := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.step`); n != 3*rate {
				t.Errorf("%d served, want %d", n, 3*rate)
			}
		})
	}
}

// The same in real time, with four workers.
func TestRateLimitOverAMinute(t *testing.T) {
	if !*aMinute {
		t.Skip("-limits.minute is not set")
	}
	const perSecond = 20
	pool := sqltest.New(t)
	step := serve(pgengine.Limit[guest]{Rate: perSecond}, func(context.Context, guestCall) error { return nil })
	e := crew(t, pool, 4, jobs.Config{}, guests(step))
	var ids []string
	for i := range perSecond * 65 {
		ids = append(ids, start(t, e, guest{Name: fmt.Sprint(i)}, nil).ID)
	}
	for _, id := range ids {
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			_, err := e.Wait(ctx, id)
			cancel()
			if err == nil {
				break
			}
			t.Fatal(err)
		}
	}
	served := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.step WHERE started_at < (SELECT min(started_at) FROM pgsagaz.step) + interval '1 minute'`)
	t.Logf("%d in a minute, of %d", served, perSecond*60)
	if served < perSecond*60*95/100 || served > perSecond*60*105/100 {
		t.Errorf("%d in a minute, want %d within 5%%", served, perSecond*60)
	}
}

// First come, first served; and a key that sends many does not keep another waiting.
func TestLinesAreFair(t *testing.T) {
	t.Parallel()
	perName := func(c guestCall) string { return c.Input.Name[:1] }
	n := newCounter(t, pgengine.Limit[guest]{Rate: 1, Per: time.Minute, Concurrency: 1, Key: perName}, nil)
	for i := range 5 {
		n.Start(guest{Name: fmt.Sprintf("a%d", i)})
	}
	n.Settle() // a0 is served, the others stand in line
	n.Start(guest{Name: "b0"})
	n.Settle()
	n.Run()
	if got := strings.Join(n.served, " "); got != "a0 b0 a1 a2 a3 a4" {
		t.Errorf("served %s, want a0 b0 a1 a2 a3 a4", got)
	}
}

// A worker that dies in a call loses its place: the next has it, and the step is done by another, in its turn.
func TestADeadWorkersPlaceIsFree(t *testing.T) {
	t.Parallel()
	var n *counter
	crashes := 0
	n = newCounter(t, pgengine.Limit[guest]{Concurrency: 1}, func(c guestCall) error {
		if c.Input.Name == "a" && crashes == 0 {
			crashes++
			n.Crash()
		}
		return nil
	})
	a, b := n.Start(guest{Name: "a"}), n.Start(guest{Name: "b"})
	n.Run()
	if n.Get(a).State != pgengine.Completed || n.Get(b).State != pgengine.Completed || len(n.served) != 3 {
		t.Errorf("%s and %s after %v", n.Get(a).State, n.Get(b).State, n.served)
	}
}

// A saga that turns back while it stands in line leaves it, and one whose undos are limited stands in line for them.
func TestTurningBackInLine(t *testing.T) {
	t.Parallel()
	n := newCounter(t, pgengine.Limit[guest]{Rate: 1, Per: time.Minute, Concurrency: 2, Undo: true}, nil)
	ids := map[string]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		ids[name] = n.Start(guest{Name: name})
	}
	n.Settle()
	for _, name := range []string{"b", "c"} { // b is called for the next minute, c stands in line
		n.Tx(func(tx pgx.Tx) error {
			return n.Engine.Cancel(t.Context(), tx, ids[name], pgengine.By{Reason: "enough"})
		})
	}
	n.Run()
	if got := strings.Join(n.served, " "); got != "a d" {
		t.Errorf("served %s, want a d", got)
	}
	for name, want := range map[string]pgengine.State{"a": pgengine.Completed, "b": pgengine.Compensated, "c": pgengine.Compensated, "d": pgengine.Completed} {
		if got := n.Get(ids[name]).State; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// An undo stands in line only if the limit says so.
func TestLimitOfUndos(t *testing.T) {
	t.Parallel()
	for _, undo := range []bool{false, true} {
		step := serve(pgengine.Limit[guest]{Rate: 1, Per: time.Hour, Undo: undo}, func(context.Context, guestCall) error { return nil })
		step.Undo = func(context.Context, guestCall, string) error { return nil }
		fails := pgengine.TxStep[guest, int]{Name: "fails", After: pgengine.Steps(step), Do: func(context.Context, pgx.Tx, guestCall) (int, error) {
			return 0, pgengine.Terminal(errors.New("no"))
		}}
		s := pgenginetest.NewSandbox(t, sqltest.New(t), guests(step, fails))
		id := s.Start(guest{Name: "a"})
		s.Run()
		if got := s.Get(id).State; got != pgengine.Compensated {
			t.Errorf("%s, want compensated", got)
		}
		hours := queryInt(t, s.Engine.Pool(), `SELECT round(extract(epoch FROM max(started_at) - min(started_at)) / 3600) FROM pgsagaz.step WHERE step = 'serve'`)
		if want := map[bool]int{false: 0, true: 1}[undo]; hours != want {
			t.Errorf("undo %v: undone after %d hours, want %d", undo, hours, want)
		}
	}
}

// A key that makes no sense fails the step, as its Do would; one of a saga's limit ends the saga before it begins.
func TestLimitKeysThatFail(t *testing.T) {
	t.Parallel()
	for want, key := range map[string]func(guestCall) string{
		"panic: oh":  func(guestCall) string { panic("oh") },
		"513 bytes":  func(guestCall) string { return strings.Repeat("x", 513) },
		"no text":    func(guestCall) string { return "\x00" },
		"none at al": func(c guestCall) string { return pgengine.TxStep[guest, string]{Name: "none at all"}.Result(c) },
	} {
		limit := pgengine.Limit[guest]{Concurrency: 1, Key: key}
		n := newCounter(t, limit, nil)
		id := n.Start(guest{Name: "a"})
		n.Run()
		if s := n.Get(id); s.State != pgengine.Compensated || s.Cause == nil || !strings.Contains(s.Cause.Error, want) || len(n.served) > 0 {
			t.Errorf("%s: %+v, served %v, want an error that says %s", s.State, s.Cause, n.served, want)
		}
		saga := hooked(nil)
		saga.Limit = limit
		s := hookBox(t, saga)
		id = s.Start(guest{Name: "a"})
		s.Run()
		if got := s.Get(id); got.State != pgengine.Compensated || got.Cause == nil || got.Cause.Kind != pgengine.CauseLimit ||
			!strings.Contains(got.Cause.String(), want) || len(got.Steps) > 0 {
			t.Errorf("%s: %+v, steps %v, want an error that says %s", got.State, got.Cause, got.Steps, want)
		}
		if got := noted(t, s, id); got != "compensated" {
			t.Errorf("noted %s, want compensated", got)
		}
	}
}

// Limits that make no sense are refused with the definition.
func TestLimitsThatAreRefused(t *testing.T) {
	t.Parallel()
	for want, limit := range map[string]pgengine.Limit[guest]{
		"negative":         {Concurrency: -1},
		"neither":          {Name: "bank"},
		"Per without":      {Concurrency: 1, Per: time.Second},
		"one a microsecon": {Rate: 2, Per: time.Microsecond},
		"the name":         {Concurrency: 1, Name: "a b"},
	} {
		_, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{guests(serve(limit, nil))}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error that says %s", limit, err, want)
		}
		saga := guests(serve(pgengine.Limit[guest]{}, nil))
		saga.Limit = limit
		if _, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{saga}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("saga %+v: %v, want an error that says %s", limit, err, want)
		}
	}
	a, b := serve(pgengine.Limit[guest]{Name: "bank", Concurrency: 1}, nil), serve(pgengine.Limit[guest]{Name: "bank", Concurrency: 2}, nil)
	b.Name = "again"
	if _, err := pgengine.Outline(guests(a, b)); err == nil || !strings.Contains(err.Error(), `its Limit "bank" is 2 at once, and that of "serve" is 1 at once`) {
		t.Errorf("%v, want a refusal of two meanings", err)
	}
	saga := guests(a)
	saga.Limit = pgengine.Limit[guest]{Concurrency: 1, Undo: true}
	if _, err := pgengine.Outline(saga); err == nil || !strings.Contains(err.Error(), "Undo is for a step's") {
		t.Errorf("%v, want a refusal of Undo", err)
	}
}
