package sagaui

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// crowdSize is how many sagas the pages are asked about: go test ./pgengine/sagaui -run NoPage -v -args -sagas=1000000.
var crowdSize = flag.Int("sagas", 40_000, "how many sagas to ask the pages about")

// What a statement of a page may read: from a table's beginning, and by an index.
const (
	mostScanned = mostCounted + 2_000 // what was consumed, or is stuck, is passed over
	mostRead    = 60_000
)

// TestNoPageReadsTheTables: however many sagas there are, no statement of a page reads a big table from its beginning to its end,
// or more than is bounded. It looks at the plans of all that the pages ask of the database.
func TestNoPageReadsTheTables(t *testing.T) {
	t.Parallel()
	w := &watcher{}
	pool := sqltest.Config(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = w })
	crowded(t, pool, fmt.Sprint(*crowdSize))
	askPages(t, pool, w)
}

// askPages asks for every page, in many ways, and looks at the plans and the times.
func askPages(t *testing.T, pool *pgxpool.Pool, w *watcher) {
	t.Helper()
	engine, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	h := NewHandler(engine, &Options{Authorize: AllowAll})
	one := func(query string) (id string) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), query).Scan(&id); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		return id
	}
	stuck := one(`SELECT id::text FROM pgsagaz.saga WHERE state = 'stuck' ORDER BY id LIMIT 1`)
	parent := one(`SELECT parent_id::text FROM pgsagaz.child LIMIT 1`)
	running := one(`SELECT saga_id::text FROM pgsagaz.lane WHERE worker IS NOT NULL LIMIT 1`)
	archived := one(`SELECT id::text FROM pgsagaz.archive ORDER BY id LIMIT 1`)
	middle := one(`SELECT id::text FROM pgsagaz.saga ORDER BY id OFFSET (SELECT count(*) / 2 FROM pgsagaz.saga) LIMIT 1`)
	paths := []string{
		"/", "/sagas", "/sagas?after=" + middle, "/sagas?name=refund", "/sagas?name=nobody", "/sagas?version=1", "/sagas?version=9", "/sagas?key=k777", "/sagas?key=nobody",
		"/sagas?tag=t5", "/sagas?tag=one", "/sagas?tag=all", "/sagas?tag=nobody", "/sagas?tag=all&name=nobody", "/sagas?tag=t5&state=stuck",
		"/sagas?state=stuck", "/sagas?state=running,failing", "/sagas?state=compensated", "/sagas?state=compensated&name=refund", "/sagas?state=stuck,compensated",
		"/sagas?state=running&version=1", "/sagas?state=running&name=nobody", "/sagas?state=running&text=never+said",
		"/sagas?text=says+no", "/sagas?text=never+said", "/sagas?text=never+said&name=refund", "/sagas?text=says+no&state=stuck", "/sagas?text=does+not+answer",
		"/sagas?older=1h", "/sagas?older=12h&state=running", "/sagas?younger=1m", "/sagas?younger=1h&older=30m&state=compensated", "/sagas?older=1000h",
		"/sagas?archived=true", "/sagas?archived=true&name=order", "/sagas?archived=true&tag=t5", "/sagas?archived=true&key=a77", "/sagas?archived=true&text=never+said", "/sagas?archived=true&older=100h",
		"/sagas?state=stuck&text=no&name=order&tag=t7&older=1s", "/sagas?limit=500",
		"/sagas/" + stuck, "/sagas/" + parent, "/sagas/" + running, "/sagas/" + archived,
		"/sagas/" + stuck + "/do/retry", "/sagas/" + running + "/do/cancel",
		"/definitions", "/definitions/order/2", "/schedules",
		"/outbox", "/outbox?topic=topic-3", "/outbox?key=k77", "/outbox?topic=nobody", "/outbox?before=" + one(`SELECT (max(id) / 2)::text FROM pgsagaz.outbox_dead`),
		"/outbox/" + one(`SELECT max(id)::text FROM pgsagaz.outbox_dead`),
		"/inbox", "/inbox?consumer=consumer-1", "/inbox?consumer=nobody", "/inbox?after=" + one(`SELECT (max(id) / 2)::text FROM pgsagaz.inbox_dead`),
		"/inbox/" + one(`SELECT max(id)::text FROM pgsagaz.inbox_dead`),
		"/api/v1/sagas/" + stuck + "/actions", "/api/v1/sagas/" + stuck + "/history", "/api/v1/overview",
	}
	for _, p := range pages {
		pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(strings.TrimSuffix(p.html, "{$}")), "[^/]+")
		if p.html == "" {
			pattern = regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(apiRoot+p.api), "[^/]+")
		}
		asked := regexp.MustCompile("^" + pattern + `(\?.*)?$`)
		if p.template != "schedule" && !slices.ContainsFunc(paths, asked.MatchString) {
			t.Errorf("no path of this test is of the page %s%s", p.html, p.api)
		}
	}
	get := func(path string) (took time.Duration, size int) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		w := httptest.NewRecorder()
		begun := stopwatch()
		h.ServeHTTP(w, r)
		took = stopwatch() - begun
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d\n%s", path, w.Code, w.Body)
		}
		return took, w.Body.Len()
	}
	seen := map[string]bool{}
	for _, path := range paths {
		w.watch()
		get(path)
		for _, q := range w.watched() {
			if key := fmt.Sprint(q); !seen[key] {
				seen[key] = true
				for _, wrong := range readsTooMuch(t, pool, q) {
					t.Errorf("%s %s", path, wrong)
				}
			}
		}
		if !testing.Verbose() {
			continue
		}
		// More often than it takes for a prepared statement to get a plan for any arguments.
		var all []time.Duration
		for range 8 {
			took, _ := get(path)
			all = append(all, took)
		}
		slices.Sort(all)
		_, size := get(path)
		t.Logf("%-60s %6.1f ms at least, %6.1f mostly, %6.1f at most, %4d kB", path, ms(all[0]), ms(all[len(all)/2]), ms(all[len(all)-1]), size>>10) // to be looked at: a test must not fail by the clock
	}
	if len(seen) < 40 {
		t.Errorf("only %d statements were looked at", len(seen))
	}
}

// stopwatch tells the time.
var stopwatch = func() func() time.Duration {
	begun := time.Now()
	return func() time.Duration { return time.Since(begun) }
}()

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// askedFor is a statement, and with what it was asked.
type askedFor struct {
	statement string
	args      []any
}

// watcher writes down what is asked of the database, while it watches.
type watcher struct {
	mu       sync.Mutex
	watching bool
	all      []askedFor
}

func (w *watcher) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watching {
		w.all = append(w.all, askedFor{q.SQL, q.Args})
	}
	return ctx
}

func (w *watcher) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (w *watcher) watch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watching, w.all = true, nil
}

func (w *watcher) watched() []askedFor {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watching = false
	return w.all
}

// planNode is as much of EXPLAIN's JSON as the test needs. Figures are of one loop.
type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Rows     float64    `json:"Actual Rows"`
	Loops    float64    `json:"Actual Loops"`
	Filtered float64    `json:"Rows Removed by Filter"`
	Recheck  float64    `json:"Rows Removed by Index Recheck"`
	Plans    []planNode `json:"Plans"`
}

// readsTooMuch executes a statement, and tells of each of its scans that is not bounded.
func readsTooMuch(t *testing.T, pool *pgxpool.Pool, q askedFor) (wrong []string) {
	t.Helper()
	var words []string
	for line := range strings.Lines(q.statement) {
		if !strings.HasPrefix(line, "--") {
			words = append(words, strings.Fields(line)...)
		}
	}
	if first := strings.ToUpper(words[0]); first != "SELECT" && first != "WITH" {
		return nil // begin, set and commit
	}
	var raw []byte
	if err := pool.QueryRow(t.Context(), "EXPLAIN (ANALYZE, TIMING off, FORMAT JSON) "+q.statement, q.args...).Scan(&raw); err != nil {
		t.Fatalf("%v in:\n%s", err, q.statement)
	}
	var plans []struct{ Plan planNode }
	if err := json.Unmarshal(raw, &plans); err != nil || len(plans) != 1 {
		t.Fatalf("%v in %s", err, raw)
	}
	var look func(n planNode)
	look = func(n planNode) {
		read := (n.Rows + n.Filtered + n.Recheck) * n.Loops
		scan := n.Relation != "" && strings.Contains(n.Type, "Scan")
		whole := strings.HasSuffix(n.Type, "Seq Scan") && read > mostScanned*n.Loops // a small table may be read often
		// What waits in the outbox has no index by saga: it is written too often, and looked through by a history alone.
		known := strings.Contains(q.statement, "FROM pgsagaz.outbox WHERE saga_id") && strings.HasPrefix(n.Relation, "outbox_")
		if scan && !known && (whole || read > mostRead) {
			wrong = append(wrong, fmt.Sprintf("reads %.0f rows of %s by a %s in\n%s\n%v", read, n.Relation, n.Type, q.statement, q.args))
		}
		for _, below := range n.Plans {
			look(below)
		}
	}
	look(plans[0].Plan)
	return wrong
}
