package interleave

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// letters name the actors.
const letters = "ABC"

// explorer lets the statements of actors through, one at a time.
type explorer struct {
	watcher *pgxpool.Pool // asks how sessions stand
	actors  []*actor
	news    chan struct{} // somebody has come to his gate, or ended

	mu sync.Mutex // over the actors
}

// actor is who sends statements through gates.
type actor struct {
	x    *explorer
	pool *pgxpool.Pool // his connections

	racing bool // his statements wait at the gate
	ended  bool
	err    error
	stops  []stop // statements at his gates: one, unless he uses two sessions at once
	pids   []uint32
	waits  bool // for a lock, when it was last asked
}

// stop is a statement at a gate.
type stop struct {
	statement string
	open      chan struct{}
}

// act is what an actor does in a race.
type act struct {
	do   func(ctx context.Context) error
	lead bool // it has a way to go to where the race begins, and says by enter that it is there
}

// step is a statement that was let through.
type step struct {
	letter    byte
	statement string
	waits     string // letters of those who waited for a lock after it
}

// newExplorer makes three actors, with pools like this one.
func newExplorer(ctx context.Context, pool *pgxpool.Pool) (*explorer, error) {
	x := &explorer{watcher: pool, news: make(chan struct{}, 1)}
	for range letters {
		a := &actor{x: x, ended: true}
		config := pool.Config()
		config.MaxConns = 2
		config.HealthCheckPeriod = time.Hour
		config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // it would look like a statement
		config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil                       // a gate has to read what passes
		config.ConnConfig.DialFunc = gated((&net.Dialer{}).DialContext, a)
		var err error
		if a.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
			return nil, err
		}
		x.actors = append(x.actors, a)
	}
	return x, nil
}

func (x *explorer) close() {
	for _, a := range x.actors {
		a.pool.Close()
	}
}

// hold keeps a statement of the actor's at its gate.
func (a *actor) hold(pid uint32, statement string) {
	a.x.mu.Lock()
	if !slices.Contains(a.pids, pid) {
		a.pids = append(a.pids, pid)
	}
	if !a.racing {
		a.x.mu.Unlock()
		return
	}
	s := stop{statement, make(chan struct{})}
	a.stops = append(a.stops, s)
	a.x.mu.Unlock()
	a.x.tell()
	<-s.open
}

// wrote is asked where the end of a transaction may be a choice of its own.
func (a *actor) wrote(pid uint32) (yes bool) {
	a.x.mu.Lock()
	racing := a.racing
	a.x.mu.Unlock()
	if racing {
		err := a.x.watcher.QueryRow(context.Background(), `SELECT backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $1`, int64(pid)).Scan(&yes)
		yes = yes || err != nil
	}
	return yes
}

// enter is called by an actor that leads up to its race: from here on its statements are held back.
func (a *actor) enter() {
	a.x.mu.Lock()
	defer a.x.mu.Unlock()
	a.racing = true
}

func (a *actor) stands() bool { return a.ended || len(a.stops) > 0 }

// begin sets an actor going, up to its first statement.
func (a *actor) begin(ctx context.Context, act act) {
	a.x.mu.Lock()
	defer a.x.mu.Unlock()
	a.racing, a.ended, a.err, a.stops, a.waits = !act.lead, false, nil, nil, false
	go func() {
		err := act.do(ctx)
		a.x.mu.Lock()
		a.racing, a.ended, a.err = false, true, err
		a.x.mu.Unlock()
		a.x.tell()
	}()
}

func (x *explorer) tell() {
	select {
	case x.news <- struct{}{}:
	default:
	}
}

// run runs one merge: choose says who of those at their gates is next, and always is asked after each statement (nil: nobody). When it
// returns, all actors have ended.
func (x *explorer) run(ctx context.Context, acts []act, choose func(at string) (byte, error), always func() error) (merge []step, err error) {
	defer func() {
		x.release()
		for i := range acts {
			if a := x.actors[i]; a.err != nil {
				err = errors.Join(err, fmt.Errorf("%c: %w", letters[i], a.err))
			}
		}
	}()
	for i, act := range acts {
		x.actors[i].begin(ctx, act)
		if err := x.settle(ctx); err != nil {
			return nil, err
		}
	}
	for {
		at := x.at(func(a *actor) bool { return len(a.stops) > 0 })
		if at == "" {
			return merge, nil
		}
		letter, err := choose(at)
		if err != nil {
			return merge, err
		}
		merge = append(merge, step{letter: letter, statement: x.let(letter)})
		if err := x.settle(ctx); err != nil {
			return merge, err
		}
		merge[len(merge)-1].waits = x.at(func(a *actor) bool { return !a.stands() })
		if always != nil {
			if err := always(); err != nil {
				return merge, err
			}
		}
	}
}

// at gives the letters of the actors of which something is true.
func (x *explorer) at(is func(*actor) bool) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var at strings.Builder
	for i, a := range x.actors {
		if is(a) {
			at.WriteByte(letters[i])
		}
	}
	return at.String()
}

// let lets an actor's next statement through.
func (x *explorer) let(letter byte) (statement string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.actors[strings.IndexByte(letters, letter)]
	s := a.stops[0]
	a.stops = a.stops[1:]
	close(s.open)
	return s.statement
}

// release opens all gates, and waits for the actors' ends.
func (x *explorer) release() {
	for {
		x.mu.Lock()
		going := false
		for _, a := range x.actors {
			a.racing = false
			for _, s := range a.stops {
				close(s.open)
			}
			a.stops = nil
			going = going || !a.ended
		}
		x.mu.Unlock()
		if !going {
			return
		}
		<-x.news
	}
}

// pace is how long an actor is given before it is asked whether he waits for a lock. It decides how often that is asked, and nothing else.
const pace = 300 * time.Microsecond

// settle returns when every actor stands at a gate, has ended, or waits for a lock that is held by one who does not go on before he is let. Those
// who wait for each other are waited for: Postgres ends that.
func (x *explorer) settle(ctx context.Context) error {
	for {
		going, known := x.going()
		if len(going) == 0 {
			return nil
		}
		if !known { // those that waited before are asked for at once: a lock may have come free
			select {
			case <-x.news:
				continue
			case <-time.After(pace):
			case <-ctx.Done():
				return fmt.Errorf("%w: %s go on without an end", ctx.Err(), x.at(func(a *actor) bool { return !a.stands() }))
			}
		}
		if held, err := x.held(ctx, going); err != nil || held {
			return err
		}
	}
}

// going are the sessions of the actors that do not stand; known: all of them waited when it was last asked.
func (x *explorer) going() (pids map[uint32]*actor, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	pids, known = map[uint32]*actor{}, true
	for _, a := range x.actors {
		if !a.stands() {
			known = known && a.waits
			for _, pid := range a.pids {
				pids[pid] = a
			}
			if len(a.pids) == 0 { // he has yet to connect
				pids[0], known = a, false
			}
		}
	}
	return pids, known
}

// held says whether all who go on wait for one who stands, or for one who waits for such a one.
func (x *explorer) held(ctx context.Context, going map[uint32]*actor) (bool, error) {
	x.mu.Lock()
	resting, who := map[*actor]bool{}, map[uint32]*actor{}
	for _, a := range x.actors { // as they stood before it was asked: who stands has not moved since
		resting[a] = a.stands()
		for _, pid := range a.pids {
			who[pid] = a
		}
	}
	x.mu.Unlock()
	var asked []int32
	for pid := range going {
		asked = append(asked, int32(pid))
	}
	rows, err := x.watcher.Query(ctx, `SELECT pid, pg_blocking_pids(pid) FROM unnest($1::int[]) pid`, asked)
	if err != nil {
		return false, err
	}
	blockers := map[*actor][]*actor{}
	var pid int32
	var by []int32
	if _, err := pgx.ForEachRow(rows, []any{&pid, &by}, func() error {
		for _, b := range by {
			if a := who[uint32(b)]; a != nil {
				blockers[going[uint32(pid)]] = append(blockers[going[uint32(pid)]], a)
			}
		}
		return nil
	}); err != nil {
		return false, err
	}
	for range x.actors {
		for a, by := range blockers {
			resting[a] = resting[a] || slices.ContainsFunc(by, func(b *actor) bool { return resting[b] })
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	all := true
	for _, a := range going {
		a.waits = resting[a]
		all = all && resting[a]
	}
	return all, nil
}

// word is a merge as it can be asked for again.
func word(merge []step) string {
	var w strings.Builder
	for _, s := range merge {
		w.WriteByte(s.letter)
	}
	return w.String()
}

// story tells a merge, a line a statement.
func story(merge []step) string {
	var s strings.Builder
	for i, m := range merge {
		text := strings.Join(strings.Fields(gist(m.statement)), " ")
		fmt.Fprintf(&s, "%4d  %c  %.110s", i+1, m.letter, text)
		if m.waits != "" {
			fmt.Fprintf(&s, "  (%s waits)", m.waits)
		}
		s.WriteByte('\n')
	}
	return s.String()
}
