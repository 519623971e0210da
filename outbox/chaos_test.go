package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// childEnv makes a relay process of this test binary: the database's address and the broker's.
const childEnv = "PGSAGAZ_OUTBOX_TEST_RELAY"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		os.Exit(child(what))
	}
	os.Exit(sqltest.Main(m))
}

func child(what string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	url, address, _ := strings.Cut(what, "|")
	err := func() error {
		pool, err := pgxpool.New(ctx, url)
		if err != nil {
			return err
		}
		defer pool.Close()
		client, err := rpc.Dial("tcp", address)
		if err != nil {
			return err
		}
		r, err := outbox.NewRelay(pool, remote{client}, outbox.Config{
			Lease: 700 * time.Millisecond, Batch: 50, Grace: time.Second, RotateRows: 500, RotateEvery: time.Second, Logger: silent,
		})
		if err != nil {
			return err
		}
		return r.Run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// remote is a publisher whose broker is in the process of the test.
type remote struct{ client *rpc.Client }

func (r remote) Publish(ctx context.Context, events []outbox.Event) []error {
	call := r.client.Go("Server.Publish", events, new([]string), make(chan *rpc.Call, 1))
	errs := make([]error, len(events))
	fail := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	select {
	case <-ctx.Done():
		return fail(ctx.Err())
	case <-call.Done:
		if call.Error != nil {
			return fail(call.Error)
		}
		for i, text := range *call.Reply.(*[]string) {
			switch {
			case text == outbox.ErrHeld.Error():
				errs[i] = outbox.ErrHeld
			case strings.HasPrefix(text, "rejected"):
				errs[i] = &outbox.RejectedError{Err: errors.New(text)}
			case text != "":
				errs[i] = errors.New(text)
			}
		}
		return errs
	}
}

func (r remote) Close() error { return r.client.Close() }

// Server is what remote talks to.
type Server struct{ publisher outbox.Publisher }

// Publish is called over the wire.
func (s *Server) Publish(events []outbox.Event, reply *[]string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, err := range s.publisher.Publish(ctx, events) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		*reply = append(*reply, text)
	}
	return nil
}

func serve(t *testing.T, p outbox.Publisher) (address string) {
	server := rpc.NewServer()
	if err := server.Register(&Server{p}); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go server.Accept(listener)
	return listener.Addr().String()
}

// startRelay starts a relay process, which is killed when the test ends.
func startRelay(t *testing.T, url, address string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+url+"|"+address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

const keys = 64

// writer publishes to random keys until enough, in transactions that hold the key's row, or else with
// Serialize, roll back now and then, and take their time. The table truth gets the order of each key.
func writer(ctx context.Context, pool *pgxpool.Pool, serialize bool, committed *atomic.Int64, enough int64) error {
	for committed.Load() < enough {
		key := rand.IntN(keys/2)*2 + 1
		if serialize {
			key--
		}
		rolledBack := errors.New("rolled back")
		n := 1 + rand.IntN(3)
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if rand.IntN(2) == 0 {
				if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil { // Publish sees to it
					return err
				}
			}
			// An id of a transaction is not its order: some have theirs long before they get the lock.
			if rand.IntN(4) == 0 {
				if _, err := tx.Exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
					return err
				}
				time.Sleep(rand.N(3 * time.Millisecond))
			}
			if !serialize {
				if _, err := tx.Exec(ctx, "UPDATE key SET n = n + 1 WHERE id = $1", key); err != nil {
					return err
				}
			}
			var messages []outbox.Message
			for range n {
				m := message(fmt.Sprint(key), 0)
				m.Serialize, m.Payload = serialize, fmt.Appendf(nil, "%d", rand.Int64())
				messages = append(messages, m)
			}
			if err := outbox.Publish(ctx, tx, messages...); err != nil {
				return err
			}
			for _, m := range messages {
				if _, err := tx.Exec(ctx, "INSERT INTO truth (key, payload) VALUES ($1, $2)", m.Key, string(m.Payload)); err != nil {
					return err
				}
			}
			if rand.IntN(2) == 0 {
				time.Sleep(rand.N(3 * time.Millisecond))
			}
			if rand.IntN(10) == 0 {
				return rolledBack
			}
			return nil
		})
		switch {
		case err == nil:
			committed.Add(int64(n))
		case !errors.Is(err, rolledBack):
			return err
		}
	}
	return nil
}

const truth = `
	CREATE TABLE key (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO key (id) SELECT generate_series(0, 63);
	CREATE TABLE truth (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, payload text NOT NULL)`

// compare holds what arrived against what was committed.
func (w world) compare() {
	w.Helper()
	rows, err := w.pool.Query(w.Context(), "SELECT key, payload FROM truth ORDER BY seq")
	if err != nil {
		w.Fatal(err)
	}
	want, all := map[string][]string{}, map[string]bool{}
	var key, payload string
	if _, err := pgx.ForEachRow(rows, []any{&key, &payload}, func() error {
		want[key] = append(want[key], payload)
		all[payload] = true
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	distinct := func() int {
		seen := map[string]bool{}
		for _, e := range w.broker.Events("t") {
			seen[string(e.Payload)] = true
		}
		return len(seen)
	}
	for begun := time.Now(); distinct() < len(all); time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > 2*time.Minute {
			w.Fatalf("%d of %d committed events have arrived, and no more come", distinct(), len(all))
		}
	}
	got, seen := map[string][]string{}, map[string]bool{}
	sequence := map[string]int64{}
	for _, e := range w.broker.Events("t") {
		if p := string(e.Payload); !seen[p] {
			seen[p] = true
			got[e.Key] = append(got[e.Key], p)
			if e.Sequence <= sequence[e.Key] {
				w.Errorf("key %s: sequence %d came after %d", e.Key, e.Sequence, sequence[e.Key])
			}
			sequence[e.Key] = e.Sequence
			if !all[p] {
				w.Errorf("key %s: an event arrived that was not committed", e.Key)
			}
		}
	}
	for key := range want {
		if !slices.Equal(got[key], want[key]) {
			for i := range want[key] {
				if i >= len(got[key]) || got[key][i] != want[key][i] {
					w.Errorf("key %s: event %d of %d arrived in another's place", key, i, len(want[key]))
					break
				}
			}
		}
	}
	w.Logf("%d events, %d arrivals", len(all), w.broker.Len())
}

// TestOrderAndLoss: every committed event arrives, no other, and of each key in the order in which its
// writers were serialised, whatever happens to relays, broker and connections.
func TestOrderAndLoss(t *testing.T) {
	w := newWorld(t)
	url := sqltest.URL(t)
	pool := connect(t, url)
	w.pool = pool
	if _, err := pool.Exec(t.Context(), truth); err != nil {
		t.Fatal(err)
	}
	broker := &outboxtest.Faulty{Publisher: w.broker, Next: outboxtest.Storm(5)}
	address := serve(t, broker)

	// One writer is open all the time, and commits when all the others have.
	long, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.Publish(t.Context(), long, message("long", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := long.Exec(t.Context(), "INSERT INTO truth (key, payload) VALUES ('long', '1')"); err != nil {
		t.Fatal(err)
	}

	const enough = 6000
	var committed atomic.Int64
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			if err := writer(t.Context(), pool, i%2 == 0, &committed, enough); err != nil {
				t.Errorf("writer: %v", err)
				committed.Store(enough)
			}
		})
	}

	relays := make([]*exec.Cmd, 4)
	for i := range relays {
		relays[i] = startRelay(t, url, address)
	}
	var resumed sync.WaitGroup
	count := map[string]int{}
	for round := 0; committed.Load() < enough || round < 24; round++ {
		time.Sleep(100*time.Millisecond + rand.N(200*time.Millisecond))
		i := rand.IntN(len(relays))
		what := []string{"killed", "stopped in peace", "frozen", "connections cut", "broker down", "left alone"}[round%6]
		count[what]++
		switch what {
		case "killed":
			_ = relays[i].Process.Kill()
			_ = relays[i].Wait()
			relays[i] = startRelay(t, url, address)
		case "stopped in peace":
			_ = relays[i].Process.Signal(syscall.SIGTERM)
			cmd := relays[i]
			resumed.Go(func() { _ = cmd.Wait() })
			relays[i] = startRelay(t, url, address)
		case "frozen": // past its lease
			cmd := relays[i]
			_ = cmd.Process.Signal(syscall.SIGSTOP)
			resumed.Go(func() { time.Sleep(1500 * time.Millisecond); _ = cmd.Process.Signal(syscall.SIGCONT) })
		case "connections cut":
			if _, err := pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name = 'pgsagaz outbox relay' AND datname = current_database() AND random() < 0.7`); err != nil {
				t.Error(err)
			}
		case "broker down":
			broker.Down()
			resumed.Go(func() { time.Sleep(400 * time.Millisecond); broker.Up() })
		}
	}
	writers.Wait()
	if err := long.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	resumed.Wait()
	w.compare()
	t.Logf("relays and broker: %v", count)
	if n := query[int](w, "SELECT count(*) FROM pgsagaz.outbox_dead"); n > 0 {
		t.Errorf("%d events are dead letters, and none was at fault", n)
	}
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 16
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
