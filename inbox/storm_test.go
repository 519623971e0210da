package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
)

// quiet throws away what a test provokes.
var quiet = slog.New(slog.DiscardHandler)

// letters are n messages with keys k0, k1, ... Every third has an id of another make.
func letters(n, keys int) []inbox.Message {
	made := make([]inbox.Message, n)
	for i := range made {
		made[i] = inbox.Message{ID: newID(), Source: "storm", Topic: "letters", Type: "letter", Key: fmt.Sprintf("k%d", i%keys), Payload: fmt.Append(nil, i)}
		if i%3 == 0 {
			made[i].ID = fmt.Sprintf("letter-%d", i)
		}
	}
	return made
}

// process is what a process is to the world: a pool of its own, and consumers. It dies without a word.
type process struct {
	pool   *pgxpool.Pool
	cancel context.CancelFunc
	done   sync.WaitGroup
	dead   chan struct{} // closed by kill
}

// kill ends it without a word: connections are cut, and nothing reaches the broker any more.
func (p *process) kill() {
	close(p.dead)
	p.cancel()
	config := p.pool.Config().ConnConfig
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err == nil {
		_, _ = conn.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()`,
			config.RuntimeParams["application_name"])
		_ = conn.Close(context.Background())
	}
}

// mortal is a source of a process that may die: then nothing reaches the broker any more.
type mortal struct {
	inbox.Source
	p *process
}

func (m mortal) Ack(ctx context.Context, ds []inbox.Delivery) error {
	select {
	case <-m.p.dead:
		return errors.New("dead")
	default:
		return m.Source.Ack(ctx, ds)
	}
}

func (m mortal) Release(ctx context.Context, ds []inbox.Delivery) error {
	select {
	case <-m.p.dead:
		return errors.New("dead")
	default:
		return m.Source.Release(ctx, ds)
	}
}

// TestDuplicateStorm: each message is delivered one to five times to three consumers in two processes, while handlers
// fail and panic, connections are cut, acks are lost, partitions move and processes die. In the end each has
// taken effect exactly once for each consumer, and along each key in order.
func TestDuplicateStorm(t *testing.T) {
	t.Parallel()
	admin := newLedger(t)
	exec(t, admin, `CREATE TABLE balance (consumer text PRIMARY KEY, cents bigint NOT NULL)`)
	consumers := []string{"mailer", "ledger", "search"}
	for _, c := range consumers {
		exec(t, admin, `INSERT INTO balance VALUES ($1, 0)`, c)
	}
	var loses atomic.Bool
	loses.Store(true)
	broker := memorysub.New(memorysub.Config{Partitions: 6, Fault: func(string) error {
		if loses.Load() && rand.IntN(30) == 0 {
			return errors.New("the broker hiccups")
		}
		return nil
	}})
	var storm atomic.Bool
	storm.Store(true)
	handler := func(consumer string) inbox.Handler {
		return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
			if err := writes(consumer)(ctx, tx, m); err != nil {
				return err
			}
			if storm.Load() {
				switch rand.IntN(60) {
				case 0:
					return errors.New("no")
				case 1:
					panic("oh")
				case 2:
					_, err := tx.Exec(ctx, `SELECT 1/0`)
					return err
				case 3:
					return inbox.Later(10*time.Millisecond, "not now")
				case 4:
					_, _ = tx.Exec(ctx, `SELECT 1/0`) // and drops the error
					return nil
				}
			}
			_, err := tx.Exec(ctx, `UPDATE balance SET cents = cents + 7 WHERE consumer = $1`, consumer)
			return err
		}
	}
	born := 0
	start := func() *process {
		born++
		config := admin.Config().Copy()
		config.MaxConns = 12
		config.ConnConfig.RuntimeParams["application_name"] = fmt.Sprintf("storm %d", born)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		p := &process{pool: pool, cancel: cancel, dead: make(chan struct{})}
		for _, name := range consumers {
			c, err := inbox.NewConsumer(pool, mortal{broker.Source(name), p}, handler(name), inbox.Config{
				Name: name, Workers: 2, Batch: 20, MaxInFlight: 100, MaxAttempts: 1000, Backoff: inbox.Backoff{Initial: time.Millisecond, Max: 20 * time.Millisecond},
				Grace: time.Second, Logger: quiet,
			})
			if err != nil {
				t.Fatal(err)
			}
			p.done.Go(func() {
				if err := c.Run(ctx); err != nil {
					t.Errorf("run: %v", err)
				}
			})
		}
		return p
	}
	messages := letters(1500, 40)
	// The first delivery of each in order, the others anywhere behind it.
	type at struct {
		m     inbox.Message
		place float64
	}
	var all []at
	for i, m := range messages {
		all = append(all, at{m, float64(i)})
		for range rand.IntN(5) {
			all = append(all, at{m, float64(i) + rand.Float64()*200})
		}
	}
	slices.SortStableFunc(all, func(a, b at) int { return int((a.place - b.place) * 1e6) })
	processes := []*process{start(), start()}
	publishing := make(chan struct{})
	go func() {
		defer close(publishing)
		for part := range slices.Chunk(all, 20) {
			for _, a := range part {
				broker.Publish(a.m)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	kills, cuts, before := 0, 0, 0
	faults := time.NewTicker(40 * time.Millisecond)
	defer faults.Stop()
	for begun := time.Now(); ; {
		<-faults.C
		waiting := 0
		for _, c := range consumers {
			waiting += broker.Waiting(c)
		}
		select {
		case <-publishing:
			if waiting == 0 {
				goto quietened
			}
		default:
		}
		if time.Since(begun) > 8*time.Second {
			loses.Store(false)
			if storm.CompareAndSwap(true, false) {
				for _, c := range consumers { // what was acked in vain is delivered again to a new member only
					broker.Rebalance(c)
				}
			}
			if time.Since(begun) > 5*time.Minute {
				t.Fatalf("%d messages still wait", waiting)
			}
			continue
		}
		// A fault for so much progress: on a slow machine they would otherwise come faster than anything is done.
		if waiting > before-20 && waiting < before+20 {
			continue
		}
		before = waiting
		switch rand.IntN(8) {
		case 0:
			i := rand.IntN(2)
			processes[i].kill()
			processes[i].done.Wait()
			processes[i].pool.Close()
			processes[i] = start()
			kills++
		case 1, 2:
			broker.Rebalance(consumers[rand.IntN(3)])
		case 3, 4:
			cuts++
			exec(t, admin, `SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'storm %' AND datname = current_database()
				ORDER BY random() LIMIT 3) x`)
		}
	}
quietened:
	for _, p := range processes {
		p.cancel()
		p.done.Wait()
		p.pool.Close()
	}
	t.Logf("%d deliveries, %d processes killed, %d cuts", len(all)*3, kills, cuts)
	for _, c := range consumers {
		if n := query[int](t, admin, `SELECT count(*) FROM (SELECT event FROM ledger WHERE consumer = $1 GROUP BY event HAVING count(*) = 1) x`, c); n != len(messages) {
			t.Errorf("consumer %s: %d of %d events took effect exactly once", c, n, len(messages))
		}
		if n := query[int](t, admin, `SELECT count(*) FROM ledger WHERE consumer = $1`, c); n != len(messages) {
			t.Errorf("consumer %s: %d effects of %d events", c, n, len(messages))
		}
		if cents := query[int](t, admin, `SELECT cents FROM balance WHERE consumer = $1`, c); cents != 7*len(messages) {
			t.Errorf("consumer %s: %d cents, want %d", c, cents, 7*len(messages))
		}
		order := map[string][]string{}
		for _, line := range list[string](t, admin, `SELECT key || ' ' || event FROM ledger WHERE consumer = $1 ORDER BY n`, c) {
			key, event, _ := strings.Cut(line, " ")
			order[key] = append(order[key], event)
		}
		for key, got := range order {
			var want []string
			for _, m := range messages {
				if m.Key == key {
					want = append(want, m.ID)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("consumer %s, key %s: out of order\ngot  %v\nwant %v", c, key, got, want)
			}
		}
	}
	if n := query[int](t, admin, `SELECT count(*) FROM pgsagaz.inbox_dead`); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}
