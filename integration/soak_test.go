//go:build unix

package integration

import (
	"context"
	"flag"
	"log/slog"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var soak = flag.Bool("soak", false, "the torture test holds snapshots, and watches that nothing grows: neither tables nor processes")

// What may be there in the end beyond twice of what was there early: caches fill, and autovacuum takes its turns.
const (
	slackBytes      = 16 << 20
	slackGoroutines = 20
)

// history are the tables that keep what was, for as long as their retention says. All others hold what is under way.
var history = regexp.MustCompile(`^(saga|step|attempt|start_key|signal|audit.*|archive.*|consumer_inbox.*|inbox_2.*|schema_.*)$`)

// watch is what a soak has beside a torture: witnesses, one process of each role, which nobody kills or stops, but which see all else; a session that
// holds a snapshot half of the time; and measurements of all of these.
type watch struct {
	x         *torture
	witnesses map[string]*process // by role
	end       func()              // of the watching

	mu     sync.Mutex
	tables map[string][]float64 // bytes
	held   []time.Duration      // for how long snapshots were
}

// watch begins; nil: that is not asked for.
func (x *torture) watch() *watch {
	if !*soak {
		return nil
	}
	w := &watch{x: x, witnesses: map[string]*process{}, tables: map[string][]float64{}}
	every := max(time.Second, *tortureTime/600)
	for _, role := range x.roles {
		if w.witnesses[role.Role] == nil {
			role.Gauge = every
			w.witnesses[role.Role] = x.launch(role)
		}
	}
	ctx, cancel := context.WithCancel(x.t.Context())
	var going sync.WaitGroup
	going.Go(func() {
		for ctx.Err() == nil {
			w.measure(ctx)
			rest(ctx, every)
		}
	})
	going.Go(func() { // a round is a fifth of what is compared
		for ctx.Err() == nil {
			w.hold(ctx, *tortureTime/10)
			rest(ctx, *tortureTime/10)
		}
	})
	w.end = sync.OnceFunc(func() { cancel(); going.Wait() })
	x.t.Cleanup(w.end)
	return w
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// hold holds a snapshot. If its session is cut off it takes another.
func (w *watch) hold(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		var begun time.Time
		_ = pgx.BeginTxFunc(ctx, w.x.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			var one int
			err := tx.QueryRow(ctx, `SELECT 1 FROM pg_class LIMIT 1`).Scan(&one)
			for begun = time.Now(); err == nil && ctx.Err() == nil; rest(ctx, 100*time.Millisecond) {
				err = tx.QueryRow(ctx, `SELECT 1`).Scan(&one)
			}
			return err
		})
		if !begun.IsZero() {
			w.mu.Lock()
			w.held = append(w.held, time.Since(begun))
			w.mu.Unlock()
		}
		rest(ctx, 100*time.Millisecond)
	}
}

// measure measures tables, unless Postgres is away.
func (w *watch) measure(ctx context.Context) {
	rows, err := w.x.pool.Query(ctx, `SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relnamespace = 'pgsagaz'::regnamespace AND relkind = 'r'`)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var name string
	var bytes float64
	_, _ = pgx.ForEachRow(rows, []any{&name, &bytes}, func() error {
		if !history.MatchString(name) {
			w.tables[name] = append(w.tables[name], bytes)
		}
		return nil
	})
}

// gauged are the words by which a process tells what there is of it.
var gauged = regexp.MustCompile(`msg=gauge goroutines=(\d+) heap=(\d+)`)

// gauge tells now and then how much there is of this process.
func gauge(ctx context.Context, every time.Duration, log *slog.Logger) {
	for ctx.Err() == nil {
		var m runtime.MemStats
		runtime.GC() // what it keeps counts, not what it has yet to sweep
		runtime.ReadMemStats(&m)
		log.Info("gauge", "goroutines", runtime.NumGoroutine(), "heap", m.HeapAlloc)
		rest(ctx, every)
	}
}

// check holds that nothing has grown.
func (w *watch) check() {
	if w == nil {
		return
	}
	w.end()
	t := w.x.t
	longest := slices.MaxFunc(append(w.held, 0), func(a, b time.Duration) int { return int(a - b) })
	if longest < *tortureTime/20 {
		t.Errorf("%d snapshots were held, the longest for %v only", len(w.held), longest)
	}
	t.Logf("%d snapshots were held, the longest for %v", len(w.held), longest.Round(time.Millisecond))
	judge := func(what string, samples []float64, slack, unit float64) {
		early, late, ok := flat(samples, slack)
		t.Logf("%-30s %8.1f early, %8.1f late, of %d samples", what, early/unit, late/unit, len(samples))
		if !ok {
			t.Errorf("%s grows: from %.1f to %.1f, in %d samples", what, early/unit, late/unit, len(samples))
		}
	}
	for role, p := range w.witnesses {
		if !p.alive() {
			t.Errorf("the %s that nobody has killed has ended: %v", role, p.cmd.ProcessState)
		}
		var goroutines, heap []float64
		for _, m := range gauged.FindAllSubmatch(p.log.bytes(), -1) {
			goroutines, heap = append(goroutines, number(m[1])), append(heap, number(m[2]))
		}
		judge(role+": goroutines", goroutines, slackGoroutines, 1)
		judge(role+": heap (MB)", heap, slackBytes, 1<<20)
	}
	for name, bytes := range w.tables {
		judge("table "+name+" (MB)", bytes, slackBytes, 1<<20)
	}
}

func number(text []byte) float64 {
	n, _ := strconv.ParseFloat(string(text), 64) // digits
	return n
}

// flat compares the medians of the second fifth and of the last: what grows with the time is thrice as much by then. Of few samples nothing is
// known: that is not flat.
func flat(samples []float64, slack float64) (early, late float64, ok bool) {
	fifth := len(samples) / 5
	if fifth < 3 {
		return 0, 0, false
	}
	median := func(s []float64) float64 {
		s = slices.Sorted(slices.Values(s))
		return s[len(s)/2]
	}
	early, late = median(samples[fifth:2*fifth]), median(samples[4*fifth:])
	return early, late, late <= 2*early+slack
}

// TestFlat: what grows is told from what is restless.
func TestFlat(t *testing.T) {
	draw := func(f func(i int) float64) (samples []float64) {
		for i := range 600 {
			samples = append(samples, f(i))
		}
		return samples
	}
	for name, c := range map[string]struct {
		samples []float64
		flat    bool
	}{
		"even":              {draw(func(int) float64 { return 100 }), true},
		"restless":          {draw(func(i int) float64 { return float64(100 + 90*(i%7)) }), true},
		"fills its cache":   {draw(func(i int) float64 { return float64(min(100, i)) }), true},
		"has a peak":        {draw(func(i int) float64 { return map[bool]float64{true: 5000, false: 100}[i > 550 && i < 570] }), true},
		"grows":             {draw(func(i int) float64 { return float64(10 + i) }), false},
		"grows in the end":  {draw(func(i int) float64 { return float64(100 + max(0, i-300)*2) }), false},
		"is not known of":   {nil, false},
		"was hardly looked": {[]float64{1, 1, 1, 1, 1, 1}, false},
	} {
		if _, _, ok := flat(c.samples, 20); ok != c.flat {
			t.Errorf("what %s: flat is %v", name, ok)
		}
	}
}
