package outbox_test

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
)

var (
	outage       = flag.Duration("outage", 2*time.Second, "how long the broker of TestADrainAfterAnOutage is away")
	outageEvents = flag.Int("events", 20_000, "how many events are written meanwhile")
)

// counting is a broker that keeps only the last number of each key.
type counting struct {
	mu    sync.Mutex
	last  map[string]int
	count int
	wrong string // the first event that came in another's place
}

func (c *counting) Publish(_ context.Context, events []outbox.Event) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		n, _ := strconv.Atoi(string(e.Payload))
		if n > c.last[e.Key]+1 && c.wrong == "" {
			c.wrong = fmt.Sprintf("key %s: %d came after %d", e.Key, n, c.last[e.Key])
		}
		if n == c.last[e.Key]+1 { // else it is one that came before
			c.last[e.Key] = n
			c.count++
		}
	}
	return make([]error, len(events))
}

func (*counting) Close() error { return nil }

func (c *counting) state() (count int, wrong string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.wrong
}

// TestADrainAfterAnOutage: what is written while the broker is away, over many attempts, heartbeats and turns of the table, leaves in
// order when it is back, from bounded memory, and the table is small again.
func TestADrainAfterAnOutage(t *testing.T) {
	w := newWorld(t)
	broker := &counting{last: map[string]int{}}
	faulty := &outboxtest.Faulty{Publisher: broker}
	faulty.Down()
	w.relay(faulty, outbox.Config{Retry: outbox.Retry{MaxAttempts: 1}, RotateRows: 5000, RotateEvery: time.Second})

	const keys, lot = 1000, 1000
	begun := time.Now()
	written := 0
	for lots := *outageEvents / lot; written < lots*lot; written += lot {
		// Event n of a key is the n-th that was written of it.
		if _, err := w.pool.Exec(t.Context(), `
			INSERT INTO pgsagaz.outbox (slot, bucket, event_id, topic, key, routing_key, type, payload, headers)
			SELECT s.slot, pgsagaz.outbox_bucket_of(k, e), e, 't', k, 't', 't', convert_to(n::text, 'UTF8'), '{}'
			FROM pgsagaz.outbox_state s, (SELECT gen_random_uuid() AS e, (g % $3)::text AS k, $1 / $3 + 1 AS n FROM generate_series(0, $2 - 1) g) m`,
			written, lot, keys); err != nil {
			t.Fatal(err)
		}
		if pause := time.Until(begun.Add(*outage * time.Duration(written) / time.Duration(lots*lot))); pause > 0 {
			time.Sleep(pause)
		}
	}
	time.Sleep(time.Until(begun.Add(*outage)))
	if n, _ := broker.state(); n > 0 || faulty.Calls() < 10 {
		t.Errorf("%d events arrived while the broker was away, at %d calls", n, faulty.Calls())
	}
	size := func() int64 {
		return query[int64](w, "SELECT sum(pg_total_relation_size(('pgsagaz.outbox_' || g)::regclass))::bigint FROM generate_series(0, 3) g")
	}
	before := size()

	watching, watched := context.WithCancel(t.Context())
	heap := make(chan uint64, 1)
	go func() { heap <- peak(watching) }()
	back := time.Now()
	faulty.Up()
	for since, last := time.Now(), 0; ; time.Sleep(5 * time.Millisecond) {
		n, wrong := broker.state()
		if wrong != "" {
			t.Fatal(wrong)
		}
		if n == written {
			break
		}
		if n > last {
			since, last = time.Now(), n
		}
		if time.Since(since) > time.Minute {
			t.Fatalf("%d of %d events arrived, and no more come", n, written)
		}
	}
	took := time.Since(back)
	watched()
	if n := query[int](w, "SELECT (SELECT count(*) FROM pgsagaz.outbox_dead) + (SELECT count(*) FROM pgsagaz.outbox_stuck)"); n > 0 {
		t.Errorf("%d events are blamed for the outage", n)
	}
	// The last slot is emptied when its turn is over, which needs one more message.
	w.until("the table is small again", func() bool {
		w.publish(message("later", 1))
		time.Sleep(100 * time.Millisecond)
		return size() < max(before/20, 1<<20)
	})
	t.Logf("%d events in an outage of %v: drained in %v, %.0f/s; heap %d MB at most; table %d MB before, %d kB after",
		written, back.Sub(begun).Round(time.Second), took.Round(time.Millisecond), float64(written)/took.Seconds(), <-heap>>20, before>>20, size()>>10)
}

// peak is the largest heap there was until ctx ends.
func peak(ctx context.Context) (most uint64) {
	for ctx.Err() == nil {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
		time.Sleep(50 * time.Millisecond)
	}
	return most
}
