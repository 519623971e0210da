package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// counter is a theatre that sells to a broker in memory, which rejects the payload "bad".
type counter struct {
	*theatre
	broker *memorypub.Broker
	pool   *pgxpool.Pool
}

func newCounter(t *testing.T) counter {
	pool := sqltest.New(t)
	c := counter{newTheatre(t, pool.Config().ConnString()), memorypub.New(memorypub.Config{}), pool}
	c.env["PGSAGAZ_BROKER"] = "memory:"
	return c
}

func (c counter) run(ctx context.Context, args ...string) (stop func() int) {
	program := c.program()
	program.Publishers = map[string]func(context.Context, string) (outbox.Publisher, error){
		"memory": func(context.Context, string) (outbox.Publisher, error) {
			return &outboxtest.Faulty{Publisher: c.broker, Poison: func(e outbox.Event) error {
				if string(e.Payload) == "bad" {
					return errors.New("I don't like it")
				}
				return nil
			}}, nil
		},
		"broken": func(context.Context, string) (outbox.Publisher, error) { return nil, errors.New("no such host") },
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan int, 1)
	var out lockedBuffer
	go func() {
		done <- program.Run(ctx, Streams{Args: args, Getenv: func(k string) string { return c.env[k] }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	}()
	return func() int { cancel(); return <-done }
}

func (c counter) publish(key, payload string) {
	c.t.Helper()
	if _, err := c.pool.Exec(c.t.Context(), "SELECT pgsagaz.publish('t', $1, $2)", []byte(payload), key); err != nil {
		c.t.Fatal(err)
	}
}

func TestOutboxCommands(t *testing.T) {
	c := newCounter(t)
	var s outbox.Status
	c.ok(&s, "outbox", "status")
	if s.Pending != 0 || len(s.Buckets) != 256 || len(s.Relays) != 0 {
		t.Errorf("at first: %+v", s)
	}
	contains(t, c.text("outbox", "status"), "no relay runs")
	contains(t, c.text("outbox", "dead", "list"), "no dead letters")

	began := time.Now().Add(-time.Minute).Format(time.RFC3339)
	stop := c.run(t.Context(), "worker", "--only", "relay", "--worker-id", "r1", "--on-rejected", "hold", "--rejected-attempts", "1",
		"--keep-messages", "1h", "--log-level", "error")
	c.publish("a", "1")
	c.publish("a", "bad")
	c.publish("a", "3")
	c.publish("b", "bad")
	var list struct{ Dead []outbox.Dead }
	c.eventually(func() bool { c.ok(&list, "outbox", "dead", "list"); return len(list.Dead) == 2 })
	c.ok(&list, "outbox", "dead", "list", "--key", "a")
	if len(list.Dead) != 1 || !list.Dead[0].Holds || list.Dead[0].Topic != "t" {
		t.Fatalf("dead letters of a: %+v", list.Dead)
	}
	a := list.Dead[0]
	c.ok(&list, "outbox", "dead", "list", "--key", "b")
	b := list.Dead[0]
	contains(t, c.text("outbox", "dead", "list"), "don't like it", "yes")
	contains(t, c.text("outbox", "dead", "show", fmt.Sprint(a.ID)), a.EventID.String(), "bad", "don't like it")
	var shown outbox.Dead
	if c.ok(&shown, "outbox", "dead", "show", fmt.Sprint(a.ID)); string(shown.Payload) != "bad" {
		t.Errorf("shown: %+v", shown)
	}
	contains(t, c.text("outbox", "status"), "r1", "STUCK KEY", "redrive or drop", "current")

	if r := c.theatre.run("outbox", "dead", "drop", fmt.Sprint(a.ID)); r.code != exitUsage {
		t.Errorf("drop without --yes: %+v", r)
	}
	var dropped struct{ Dropped int64 }
	if c.ok(&dropped, "outbox", "dead", "drop", fmt.Sprint(a.ID), "--yes"); dropped.Dropped != a.ID {
		t.Errorf("dropped %+v", dropped)
	}
	c.eventually(func() bool { return c.broker.Len() == 2 })
	var r outbox.Redriven
	if c.ok(&r, "outbox", "dead", "redrive", fmt.Sprint(b.ID)); !r.Ordered || r.ID != b.ID {
		t.Errorf("redriven %+v", r)
	}
	c.eventually(func() bool { c.ok(&list, "outbox", "dead", "list"); return len(list.Dead) == 1 }) // it was rejected again

	var replayed struct{ Replayed int }
	c.eventually(func() bool {
		c.ok(&replayed, "outbox", "replay", "--from", began, "--topic", "t")
		return replayed.Replayed >= 2
	})
	c.eventually(func() bool { events := c.broker.Events("t"); return events[len(events)-1].Replayed })
	if code := stop(); code != exitOK {
		t.Errorf("the relay ended with %d", code)
	}
	if found, err := sql.Check(t.Context(), c.pool); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// TestWorkerRunsTheRelay beside the sagas, where it has a broker.
func TestWorkerRunsTheRelay(t *testing.T) {
	c := newCounter(t)
	c.publish("a", "1")
	stop := c.run(t.Context(), "worker", "--log-level", "error")
	c.eventually(func() bool { return c.broker.Len() == 1 })
	var started struct{ ID string }
	c.eventually(func() bool {
		return json.Unmarshal([]byte(c.theatre.run("saga", "start", "ticket", "--input", "{}", "--json").stdout), &started) == nil
	})
	var saga struct{ State string }
	c.eventually(func() bool { c.ok(&saga, "saga", "show", started.ID); return saga.State == "completed" })
	if code := stop(); code != exitOK {
		t.Errorf("the worker ended with %d", code)
	}
	for args, code := range map[string]int{
		"worker --only nonsense":                    exitUsage,
		"worker --only relay --broker nowhere:1":    exitUsage,
		"worker --only relay --broker broken:1":     exitUsage,
		"worker --only relay --on-rejected explode": exitUsage,
		"worker --only relay --relay-lease 1ms":     exitUsage,
	} {
		if got := c.run(t.Context(), strings.Fields(args)...); waitCode(got) != code {
			t.Errorf("%s: want exit code %d", args, code)
		}
	}
	delete(c.env, "PGSAGAZ_BROKER")
	if got := c.run(t.Context(), "worker", "--only", "relay"); waitCode(got) != exitUsage {
		t.Error("a relay without a broker runs")
	}
}

// waitCode stops a program that should have ended by itself.
func waitCode(stop func() int) int { time.Sleep(300 * time.Millisecond); return stop() }
