//go:build unix

package integration

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/localpg"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

var (
	tortureTime  = flag.Duration("torture", 12*time.Second, "for how long the torture test does harm")
	tortureSagas = flag.Int("transfers", 500, "how many sagas it runs")
	tortureEvery = flag.Duration("every", 600*time.Millisecond, "how often something is done, on average")
	tortureRate  = flag.Int("rate", 0, "how many sagas it runs a second, in place of -transfers; 0: -transfers says")
	promotions   = flag.Bool("promote", false, "Postgres has a synchronous standby, and the torture test's harm includes that it takes over")
)

const (
	tortureAccounts = 64
	accountCents    = 1_000_000
)

// harm is something that is done to the system: what, when, to which of the processes, and for how long.
type harm struct {
	at   time.Duration
	what string
	whom int
	long time.Duration
}

// schedule draws the harm of a run, of the usual kinds and of more. It depends on nothing but the source of chance.
func schedule(random *rand.Rand, whole, every time.Duration, more ...string) (all []harm) {
	kinds := append([]string{ // the more often, the likelier
		"kill", "kill", "kill", "stop", "stop", "stop", "term", "cut", "cut", "terminate", "terminate", "trouble", "trouble", "cancel", "cancel",
		"crash", "kill all",
	}, more...)
	for at := every; at < whole; at += time.Duration(random.ExpFloat64() * float64(every)) {
		all = append(all, harm{at: at, what: kinds[random.IntN(len(kinds))], whom: random.IntN(1000), long: time.Duration(200+random.IntN(2500)) * time.Millisecond})
	}
	return all
}

// torture is a bank whose workers, relays and consumers are processes, with Postgres behind a proxy.
type torture struct {
	*world
	random  *rand.Rand
	server  *localpg.Server
	standby *localpg.Server // nil: there is none
	proxy   *proxy          // of the processes
	door    *proxy          // of the test itself, which is not cut
	log     *faultyLog
	own     map[string]func() // harm that only one test does
	most    int               // how many sagas it runs
	whole   time.Duration     // in which they come

	roles     []workerOptions
	processes []*process
	ever      []*process // those that were replaced too
	deaths    int
	setBack   bool // the database's clock was
	again     int  // transaction ids that came again with a promotion
	did       map[string]int
	sagas     []string
	expects   map[string]bool // by saga: whether it is to fail
}

func newTorture(t *testing.T) *torture { return newTortureOn(t, sqltest.Server(t)) }

func newTortureOn(t *testing.T, server *localpg.Server) *torture {
	return newTortureOf(t, server, func(*workerOptions) {})
}

// newTortureOf has processes that are started with options of a test's own.
func newTortureOf(t *testing.T, server *localpg.Server, with func(*workerOptions)) *torture {
	config, err := pgx.ParseConfig(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.Migrate(t.Context(), config, nil); err != nil {
		t.Fatal(err)
	}
	x := &torture{
		world:  &world{t: t, url: server.URL(), outside: newOutside(t), ids: map[string]string{}, orders: map[string]Order{}, cancelled: map[string]bool{}},
		random: seeded(t), server: server, proxy: newProxy(t, server.URL()), door: newProxy(t, server.URL()),
		log:  &faultyLog{broker: memorysub.New(memorysub.Config{Partitions: 12})},
		most: *tortureSagas, whole: *tortureTime, did: map[string]int{}, expects: map[string]bool{},
	}
	pooled, err := pgxpool.ParseConfig(x.door.url)
	if err != nil {
		t.Fatal(err)
	}
	sql.WakeOnCommit(pooled)
	if x.pool, err = pgxpool.NewWithConfig(t.Context(), pooled); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.pool.Close)
	if x.engine, err = pgengine.New(x.pool, pgengine.Config{Sagas: []pgengine.Definition{transfers(newClient(x.outside.url, "test"))}}); err != nil {
		t.Fatal(err)
	}
	if err := x.engine.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := x.pool.Exec(t.Context(), bankSchema); err != nil {
		t.Fatal(err)
	}
	if _, err := x.pool.Exec(t.Context(), `INSERT INTO account SELECT n, $2 FROM generate_series(0, $1 - 1) n`, tortureAccounts, accountCents); err != nil {
		t.Fatal(err)
	}
	address := post{publisher: x.log, broker: x.log.broker, silence: 2 * time.Second}.listen(t)
	for _, role := range []string{"worker", "worker", "relay", "relay", "mail", "mail", "books"} {
		x.roles = append(x.roles, workerOptions{Role: role, URL: x.proxy.url, Post: address, Lease: time.Second, Grace: 500 * time.Millisecond})
	}
	x.roles[1].JobPerStep = true
	for i := range x.roles {
		with(&x.roles[i])
	}
	for _, role := range x.roles {
		x.processes = append(x.processes, x.launch(role))
	}
	x.ever = slices.Clone(x.processes)
	return x
}

// revive replaces the processes that are gone.
func (x *torture) revive() {
	for i, p := range x.processes {
		if !p.alive() {
			x.deaths++
			x.processes[i] = x.launch(x.roles[i])
			x.ever = append(x.ever, x.processes[i])
		}
	}
}

// do does harm. What lasts is ended by the returned function, which is called in time.
func (x *torture) do(h harm) (end func()) {
	p := x.processes[h.whom%len(x.processes)]
	x.did[h.what]++
	if own := x.own[h.what]; own != nil {
		own()
		return nil
	}
	switch h.what {
	case "kill":
		p.kill()
	case "kill all":
		for _, p := range x.processes {
			p.kill()
		}
	case "term":
		p.term()
	case "stop":
		p.stop()
		return p.wake
	case "cut":
		x.proxy.cutAfter(20_000)
		return func() { x.proxy.cutAfter(0) }
	case "terminate":
		_, _ = x.pool.Exec(x.t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	case "trouble":
		x.log.trouble.Store(50)
		return func() { x.log.trouble.Store(0) }
	case "crash":
		crash(x.t, x.server)
	case "promote":
		x.promote()
	case "cancel":
		for range 3 {
			if n := len(x.sagas); n > 0 {
				x.cancel(x.sagas[n-1-x.random.IntN(min(10, n))])
			}
		}
	}
	return nil
}

// begin starts some transfers in one transaction, however often Postgres goes away.
func (x *torture) begin(n int) {
	var inputs []Transfer
	for range n {
		from := x.random.IntN(tortureAccounts)
		inputs = append(inputs, Transfer{From: from, To: (from + 1 + x.random.IntN(tortureAccounts-1)) % tortureAccounts, Cents: 1 + x.random.Int64N(100), Fails: x.random.IntN(8) == 0})
	}
	first := len(x.sagas)
	var ids []string
	eventually(x.t, 2*patience, "starts", func() bool {
		ids = nil
		return pgx.BeginFunc(x.t.Context(), x.pool, func(tx pgx.Tx) error {
			for i, in := range inputs {
				s, err := x.engine.Start(x.t.Context(), tx, in, &pgengine.StartOptions{Key: fmt.Sprint(first + i)})
				if err != nil {
					return err
				}
				ids = append(ids, s.ID)
			}
			return nil
		}) == nil
	})
	for i, id := range ids {
		x.expects[id] = inputs[i].Fails
	}
	x.sagas = append(x.sagas, ids...)
}

// run does all the harm, while transfers come evenly.
func (x *torture) run(harms []harm) {
	type ending struct {
		at  time.Duration
		end func()
	}
	var endings []ending
	begun := time.Now()
	for len(harms) > 0 || len(endings) > 0 || len(x.sagas) < x.most {
		now := time.Since(begun)
		if due := int(int64(x.most) * int64(now) / int64(x.whole)); len(x.sagas) < min(due, x.most) {
			x.begin(min(10, x.most-len(x.sagas)))
		}
		for len(harms) > 0 && harms[0].at <= now {
			if end := x.do(harms[0]); end != nil {
				endings = append(endings, ending{now + harms[0].long, end})
			}
			harms = harms[1:]
		}
		endings = slices.DeleteFunc(endings, func(e ending) bool {
			if e.at > now {
				return false
			}
			e.end()
			return true
		})
		x.revive()
		time.Sleep(5 * time.Millisecond)
	}
}

// settle waits until everything that was begun has come through.
func (x *torture) settle() {
	for _, p := range x.processes {
		p.wake()
	}
	x.revive()
	begun := time.Now()
	x.until("all sagas have ended", `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NULL`)
	x.until("all that was said has arrived at the consumers", `SELECT (SELECT 2 * count(*) FROM said) - (SELECT count(*) FROM (SELECT DISTINCT consumer, event FROM ledger) l)`)
	x.t.Logf("after the harm it took %v until all was quiet", time.Since(begun).Round(time.Millisecond))
}

// until waits until a count is 0: for as long as it changes.
func (x *torture) until(what, question string) {
	for last, since := -1, time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var n int
		if err := x.pool.QueryRow(x.t.Context(), question).Scan(&n); err != nil {
			continue
		}
		if n == 0 {
			return
		}
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > 2*patience {
			x.standstill()
			x.fatalOpen(fmt.Sprintf("%s: %d are left, and no more for %v", what, n, 2*patience))
		}
	}
}

// standstill shows where everything stands: the database's sessions, how far relays have come, and what this process and each other one is at.
func (x *torture) standstill() {
	for _, question := range []string{
		`SELECT format('%s %s %s %s since %s: %s', pid, application_name, state, wait_event, query_start, left(query, 200)) FROM pg_stat_activity WHERE datname = current_database()`,
		`SELECT format('%s relay %s', pgsagaz.now(), r) FROM pgsagaz.outbox_relay r`,
		`SELECT format('cursor %s of %s buckets', c, (SELECT count(*) FROM pgsagaz.outbox_bucket b WHERE b.cursor_id = c.id)) FROM pgsagaz.outbox_cursor c`,
		`SELECT format('slot %s: %s messages, of which %s are behind their cursor, ids %s to %s, transactions %s to %s', o.slot, count(*),
		               count(*) FILTER (WHERE pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)), min(o.id), max(o.id), min(o.txid::text::bigint), max(o.txid::text::bigint))
		 FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b USING (bucket) JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id GROUP BY o.slot`,
		`SELECT format('%s; %s said, %s taken, %s claimed, %s stuck, %s dead', s, (SELECT count(*) FROM said), (SELECT count(*) FROM ledger),
		               (SELECT count(*) FROM pgsagaz.consumer_inbox), (SELECT count(*) FROM pgsagaz.outbox_stuck), (SELECT count(*) FROM pgsagaz.outbox_dead)) FROM pgsagaz.outbox_state s`,
	} {
		rows, _ := x.pool.Query(x.t.Context(), question) // CollectRows tells of the error
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, line := range lines {
			x.t.Log(line)
		}
		if err != nil {
			x.t.Log(err)
		}
	}
	var stacks strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
	x.t.Log(stacks.String())
	for _, p := range x.processes {
		before := len(p.log.bytes())
		p.signal(syscall.SIGQUIT)
		select {
		case <-p.exited:
		case <-time.After(patience):
		}
		x.t.Logf("%s is at:\n%s", p.id, p.log.bytes()[before:])
	}
}

// lacks skips a test for what this machine cannot do, or fails it where nothing may be left out.
func lacks(t testing.TB, why any) {
	t.Helper()
	if os.Getenv("PGSAGAZ_TEST_FAULTS") == "required" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestTorture: a bank under all the harm there is. What holds in the end is what the README promises: see [torture.check].
func TestTorture(t *testing.T) {
	t.Parallel()
	if *tortureRate > 0 {
		*tortureSagas = int(float64(*tortureRate) * tortureTime.Seconds())
	}
	x := newTorture(t)
	var more []string
	if *promotions {
		x.follow()
		more = []string{"promote"}
	}
	harms := schedule(x.random, *tortureTime, *tortureEvery, more...)
	watch := x.watch()
	x.run(harms)
	watch.check()
	x.settle()
	x.check()
	t.Logf("%d faults %v, %d processes replaced, %d connections cut, %d calls of the broker failed; %d sagas, %d events, %d arrivals",
		len(harms), x.did, x.deaths, x.proxy.cuts.Load(), x.log.failed, len(x.sagas), x.one(`SELECT count(*) FROM said`), len(x.log.arrived()))
}

func (x *torture) one(question string) (n int) {
	x.t.Helper()
	if err := x.pool.QueryRow(x.t.Context(), question).Scan(&n); err != nil {
		x.t.Fatal(err)
	}
	return n
}

// byTime are the rules that judge by the order of what was recorded, in time.
var byTime = []string{"done_before_predecessor", "undone_before_dependent", "outbox_event_behind"}

// check is the proof, from append-only tables that were written in the transactions themselves, and from the broker's log.
func (x *torture) check() {
	x.t.Helper()
	violations, err := sql.Check(x.t.Context(), x.pool)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, v := range violations {
		if !x.setBack || !slices.Contains(byTime, v.Rule) {
			x.t.Error(v)
		}
	}
	for _, rule := range []struct{ name, question string }{
		{"S1: a saga has ended otherwise than its input says, and nobody has cancelled it", `
			SELECT format('%s is %s: %s', id, state, input) FROM pgsagaz.saga
			WHERE state::text <> CASE WHEN (input ->> 'Fails')::boolean THEN 'compensated' ELSE 'completed' END
			  AND NOT (state = 'compensated' AND cause ->> 'kind' = 'cancel')`},
		{"S1: money is lost or made", fmt.Sprintf(`SELECT sum(cents)::text FROM account HAVING sum(cents) <> %d`, tortureAccounts*accountCents)},
		{"S1: an account is not the sum of its movements", fmt.Sprintf(`
			SELECT a.id::text FROM account a LEFT JOIN movement m ON m.account = a.id GROUP BY a.id HAVING a.cents <> %d + coalesce(sum(m.cents), 0)`, accountCents)},
		{"S1: a saga that was compensated has moved money", `
			SELECT s.id::text FROM pgsagaz.saga s JOIN movement m ON m.saga = s.id WHERE s.state = 'compensated' GROUP BY s.id HAVING sum(m.cents) <> 0`},
		{"S4: an event has taken effect twice for a consumer, or never", `
			SELECT format('%s for %s: %s times', e.event, c.consumer, count(l.event))
			FROM said e CROSS JOIN (VALUES ('mail'), ('books')) c(consumer) LEFT JOIN ledger l ON l.event = e.event AND l.consumer = c.consumer
			GROUP BY e.event, c.consumer HAVING count(l.event) <> 1`},
		{"S4: an event that nobody has said has taken effect", `SELECT l.event::text FROM ledger l LEFT JOIN said e USING (event) WHERE e.event IS NULL`},
		{"S5, S7: a step has committed more than once, or not as often as it is recorded", `
			WITH written AS (SELECT saga, step, direction, count(*) AS n FROM effect GROUP BY 1, 2, 3),
			recorded AS (SELECT saga_id AS saga, step, direction::text, count(*) AS n FROM pgsagaz.step
				WHERE outcome = 'done' AND step NOT IN ('fee', 'tell') GROUP BY 1, 2, 3)
			SELECT format('saga %s: %s %s is written %s times and recorded %s times', saga, direction, step, coalesce(w.n, 0), coalesce(r.n, 0))
			FROM written w FULL JOIN recorded r USING (saga, step, direction) WHERE w.n IS DISTINCT FROM r.n OR w.n > 1`},
		{"a message was blamed for what the broker did", `SELECT event_id::text FROM pgsagaz.outbox_dead`},
		{"a message was given up by a consumer", `SELECT event_id::text FROM pgsagaz.inbox_dead`},
	} {
		rows, err := x.pool.Query(x.t.Context(), rule.question)
		if err != nil {
			x.t.Fatal(rule.name, err)
		}
		wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			x.t.Fatal(rule.name, err)
		}
		for _, w := range wrong[:min(len(wrong), 10)] {
			x.t.Errorf("%s (%d of them): %s", rule.name, len(wrong), w)
		}
	}
	x.checkOutside()
	x.checkLog()
	x.checkSecrets()
}

// checkSecrets: whatever went wrong, no process has told the password of the database, or what was in an input or a message.
func (x *torture) checkSecrets() {
	u, err := url.Parse(x.server.URL())
	if err != nil {
		x.t.Fatal(err)
	}
	password, _ := u.User.Password()
	said := 0
	for _, p := range x.ever {
		text := p.log.bytes()
		said += len(text)
		for what, secret := range map[string]string{"the password": password, "an input": "Fails", "a message": "Account"} {
			if i := bytes.Index(text, []byte(secret)); i >= 0 {
				x.t.Errorf("%s has told %s: %s", p.id, what, text[max(0, i-200):min(len(text), i+200)])
			}
		}
	}
	if said == 0 || len(password) < 10 {
		x.t.Errorf("%d bytes were looked through for a password of %d", said, len(password))
	}
}

// checkOutside holds S6: a key has had its effect outside once, and it stands where its saga is completed.
func (x *torture) checkOutside() {
	for s, err := range x.engine.List(x.t.Context(), pgengine.Filter{Name: "transfer"}) {
		if err != nil {
			x.t.Fatal(err)
		}
		for _, step := range []string{"fee", "tell"} {
			e := x.outside.key(s.ID + "/" + step)
			if e.Effective > 1 || s.State == pgengine.Completed && !e.Standing || s.State == pgengine.Compensated && e.Standing {
				x.t.Errorf("S6: saga %s is %s, and outside %s is %+v", s.ID, s.State, step, e)
			}
		}
	}
}

// checkLog holds S2 and S3: what was committed has arrived, nothing else has, and the first arrivals of a key come in the
// order of its count.
func (x *torture) checkLog() {
	type place struct {
		key string
		n   int64
	}
	said := map[string]place{}
	rows, err := x.pool.Query(x.t.Context(), `SELECT event::text, key, n FROM said`)
	if err != nil {
		x.t.Fatal(err)
	}
	var id string
	var p place
	if _, err := pgx.ForEachRow(rows, []any{&id, &p.key, &p.n}, func() error { said[id] = p; return nil }); err != nil {
		x.t.Fatal(err)
	}
	missing, last := maps.Clone(said), map[string]int64{}
	wrong := 0
	for i, e := range x.log.arrived() {
		id := e.ID.String()
		p, ok := said[id]
		if !ok {
			x.t.Errorf("S2: event %s of key %s has arrived, and was never committed", id, e.Key)
			continue
		}
		if _, first := missing[id]; !first {
			continue
		}
		delete(missing, id)
		if p.n != last[p.key]+1 {
			if wrong++; wrong <= 10 {
				x.t.Errorf("S3: arrival %d: %d of key %s came after %d", i, p.n, p.key, last[p.key])
			}
		}
		last[p.key] = p.n
	}
	for id := range missing {
		x.t.Errorf("S2: event %s has not arrived", id)
	}
}

// The same seed does the same harm at the same times.
func TestTortureRepeats(t *testing.T) {
	draw := func(seed uint64) []harm { return schedule(rand.New(rand.NewPCG(seed, 0)), time.Minute, time.Second) }
	if a, b := draw(7), draw(7); len(a) < 30 || !slices.Equal(a, b) || slices.Equal(a, draw(8)) {
		t.Errorf("%d and %d acts", len(a), len(b))
	}
}
