//go:build unix && failpoint

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// often are points that a process passes all the time, so that it may die at any of its passages.
var often = []string{"outbox.read.", "outbox.publish.", "outbox.save.", "outbox.put.", "outbox.judge.", "outbox.finish.", "outbox.direct.ready", "outbox.direct.published",
	"inbox.claimed", "inbox.handled", "inbox.commit.", "inbox.acked", "inbox.count."}

func hitOf(random *rand.Rand, point string) int {
	for _, prefix := range often {
		if strings.HasPrefix(point, prefix) {
			return 1 + random.IntN(6)
		}
	}
	return 1
}

// mail is a database with an outbox, and the broker that its messages go to.
type mail struct {
	*testing.T
	url    string
	pool   *pgxpool.Pool
	broker *memorypub.Broker
	cured  atomic.Bool // nothing is rejected any more
	faulty *outboxtest.Faulty
	post   string
}

func newMail(t *testing.T) *mail {
	url := sqltest.URL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 10
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	mustExec(t, pool, `CREATE TABLE key (id text PRIMARY KEY, n integer NOT NULL DEFAULT 0);
		CREATE TABLE truth (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, payload text NOT NULL)`)
	m := &mail{T: t, url: url, pool: pool, broker: memorypub.New(memorypub.Config{})}
	var mu sync.Mutex
	rejected := map[string]int{}
	m.faulty = &outboxtest.Faulty{Publisher: m.broker, Next: outboxtest.Storm(6), Poison: func(e outbox.Event) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case m.cured.Load():
		case strings.HasPrefix(e.Key, "dead"):
			return errors.New("never")
		case strings.HasPrefix(e.Key, "flaky") && rejected[e.ID.String()] < 1:
			rejected[e.ID.String()]++
			return errors.New("not yet")
		}
		return nil
	}}
	m.post = post{publisher: m.faulty}.listen(t)
	return m
}

// write publishes a few messages of a key whose row it holds.
func (m *mail) write(ctx context.Context, n int) error {
	key := fmt.Sprintf("%s %d", []string{"plain", "plain", "flaky", "plain", "late", "dead"}[n%6], n%5)
	return pgx.BeginFunc(ctx, m.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO key (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET n = key.n + 1`, key); err != nil {
			return err
		}
		var messages []outbox.Message
		for range 1 + n%3 {
			x := outbox.Message{Topic: "t", Key: key, Payload: fmt.Append(nil, rand.Int64())}
			if strings.HasPrefix(key, "late") {
				x.NotBefore = time.Now().Add(30 * time.Millisecond)
			}
			messages = append(messages, x)
			if _, err := tx.Exec(ctx, `INSERT INTO truth (key, payload) VALUES ($1, $2)`, key, string(x.Payload)); err != nil {
				return err
			}
		}
		return outbox.Publish(ctx, tx, messages...)
	})
}

// relay runs one in this process until stop is called.
func (m *mail) relay() (stop func()) {
	r, err := outbox.NewRelay(m.pool, m.faulty, relayConfig())
	if err != nil {
		m.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(m.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.Errorf("relay: %v", err)
		}
	})
	m.Cleanup(stop)
	return stop
}

// A relay kills itself at a point where that could matter, while messages of all kinds are written and another relay comes and goes.
// Whoever comes after it loses nothing, and turns no key's order around.
func TestCrashOfARelayAtEveryPoint(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	for _, point := range pointsOf("outbox.") {
		hit := hitOf(random, point)
		t.Run(fmt.Sprintf("%s_%d", point, hit), func(t *testing.T) {
			t.Parallel()
			m := newMail(t)
			victim := startProcess(t, "victim", partVariable, partOptions{URL: m.url, Post: m.post, Failpoint: point, Hit: hit})
			load, end := context.WithCancel(context.WithoutCancel(t.Context()))
			defer end()
			var loads sync.WaitGroup
			loads.Go(func() {
				for n := 0; load.Err() == nil; n++ {
					if err := m.write(load, n); err != nil && load.Err() == nil {
						t.Errorf("write: %v", err)
						return
					}
					time.Sleep(8 * time.Millisecond)
				}
			})
			loads.Go(func() { // another relay comes and goes, so that buckets change hands
				for load.Err() == nil {
					time.Sleep(500 * time.Millisecond)
					stop := m.relay()
					time.Sleep(700 * time.Millisecond)
					stop()
				}
			})
			if strings.HasPrefix(point, "outbox.leave.") {
				victim.ready(t)
				time.Sleep(time.Second)
				victim.term()
			}
			if sig := victim.wait(t); sig != syscall.SIGKILL {
				t.Fatalf("the relay ended with %v: %s was not reached %d times", victim.cmd.ProcessState, point, hit)
			}
			end()
			loads.Wait()
			m.relay()
			m.cure()
			m.compare()
		})
	}
}

// cure ends all rejections, and redrives what was given up.
func (m *mail) cure() {
	m.cured.Store(true)
	eventually(m, patience, "no dead letters and none to come", func() bool {
		dead, err := outbox.DeadLetters(m.Context(), m.pool, outbox.DeadFilter{})
		if err != nil {
			m.Fatal(err)
		}
		for _, d := range dead {
			if err := sql.InTx(m.Context(), m.pool, func(tx pgx.Tx) error { _, err := outbox.Redrive(m.Context(), tx, d.ID, outbox.By{}); return err }); err != nil {
				m.Fatal(err)
			}
		}
		s, err := outbox.GetStatus(m.Context(), m.pool)
		return err == nil && s.Pending == 0 && s.Scheduled == 0 && s.Direct == 0 && s.Dead == 0 && len(s.Stuck) == 0
	})
}

// compare holds what arrived against what was committed.
func (m *mail) compare() {
	rows, err := m.pool.Query(m.Context(), "SELECT key, payload FROM truth ORDER BY seq")
	if err != nil {
		m.Fatal(err)
	}
	place, count := map[string]int{}, map[string]int{} // of a payload in its key
	keys := map[string]string{}
	var key, payload string
	if _, err := pgx.ForEachRow(rows, []any{&key, &payload}, func() error {
		count[key]++
		place[payload], keys[payload] = count[key], key
		return nil
	}); err != nil {
		m.Fatal(err)
	}
	seen, last := map[string]bool{}, map[string]int{}
	for _, e := range m.broker.Events("") {
		p := string(e.Payload)
		if seen[p] {
			continue
		}
		seen[p] = true
		switch at, committed := place[p]; {
		case !committed:
			m.Errorf("key %q: an event arrived that was not committed", e.Key)
		case e.Key == "" || strings.HasPrefix(e.Key, "dead"): // the dead have lost their place
		case at != last[e.Key]+1:
			m.Errorf("key %q: event %d arrived after event %d", e.Key, at, last[e.Key])
			last[e.Key] = at
		default:
			last[e.Key] = at
		}
	}
	if len(seen) != len(place) {
		m.Errorf("%d of %d committed events arrived", len(seen), len(place))
	}
	for p, at := range place {
		if !seen[p] {
			m.Errorf("lost: event %d of %d of key %q", at, count[keys[p]], keys[p])
		}
	}
	m.Logf("%d events, %d arrivals", len(place), m.broker.Len())
}
