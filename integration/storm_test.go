//go:build unix

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestDuplicateStormOfProcesses has the test's own broker between.
func TestDuplicateStormOfProcesses(t *testing.T) {
	t.Parallel()
	broker := memorysub.New(memorysub.Config{})
	storm(t, partOptions{Post: post{broker: broker}.listen(t)}, func(_ context.Context, events []outbox.Event) []error {
		for _, e := range events {
			broker.Publish(inbox.Message{ID: e.ID.String(), Source: "storm", Topic: e.Topic, Key: e.Key, Type: e.Type, Payload: e.Payload})
		}
		return make([]error, len(events))
	})
}

// TestDuplicateStormThroughBrokers has real ones.
func TestDuplicateStormThroughBrokers(t *testing.T) {
	for name, address := range map[string]func(testing.TB) string{"kafka": brokertest.Kafka, "amqp": brokertest.AMQP, "redis": brokertest.Redis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := partOptions{Route: name, Address: address(t), Topic: brokertest.Name("storm")}
			r, err := o.route()
			if err != nil {
				t.Fatal(err)
			}
			if name == "amqp" { // what no queue is bound for is lost to it
				for _, consumer := range stormed {
					s, err := r.source(&brokertest.Net{}, consumer)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, _ = s.Fetch(ctx, 1) // there is nothing
					cancel()
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
			p, err := r.publisher(&brokertest.Net{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			storm(t, o, p.Publish)
		})
	}
}

// stormed are the consumers of a storm, all of which are in each of its processes.
var stormed = []string{"mailer", "ledger", "search"}

// storm delivers each message one to five times to three consumers in two processes that are killed and come again, while handlers fail
// and connections are cut. In the end each has taken effect exactly once for each consumer.
func storm(t *testing.T, o partOptions, publish func(context.Context, []outbox.Event) []error) {
	const messages, kills = 400, 4
	o.URL, o.Consumers = sqltest.URL(t), stormed
	pool, err := pgxpool.New(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	mustExec(t, pool, `CREATE TABLE ledger (n bigint GENERATED ALWAYS AS IDENTITY, consumer text, event text, key text); CREATE TABLE cured (id integer)`)

	deliveries := 0
	send := func(events ...outbox.Event) {
		deliveries += len(events)
		for deadline := time.Now().Add(patience); len(events) > 0; {
			var left []outbox.Event
			for i, err := range publish(t.Context(), events) {
				if err != nil {
					left = append(left, events[i])
				}
				if err != nil && time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			events = left
		}
	}
	var events []outbox.Event
	for i := range messages {
		events = append(events, outbox.Event{ID: uuid.Must(uuid.NewV7()), Topic: o.Topic, Key: fmt.Sprintf("key %d", i%20), Type: "storm.raged", RoutingKey: "storm.raged",
			Payload: []byte("{}"), CreatedAt: time.Now()})
	}
	send(events[0]) // makes the topic where there is none
	start := func(i int) *process {
		o := o
		o.Member = fmt.Sprintf("process %d", i)
		return startProcess(t, o.Member, partVariable, o)
	}
	processes := []*process{start(0), start(1)}
	for i := range events {
		send(events[i])
		for range rand.IntN(5) {
			send(events[rand.IntN(i+1)])
		}
		switch {
		case i%(messages/kills) == messages/kills/2:
			n := rand.IntN(2)
			processes[n].kill()
			<-processes[n].exited
			processes[n] = start(n)
		case i%30 == 29:
			mustExec(t, pool, `SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 2) x`)
		}
		time.Sleep(5 * time.Millisecond)
	}
	const once = `SELECT count(*) FROM (SELECT FROM ledger GROUP BY consumer, event) x`
	var distinct, effects, dead int
	eventually(t, patienceOfTwo, "every message takes effect for every consumer", func() bool {
		err := pool.QueryRow(t.Context(), once).Scan(&distinct)
		return err == nil && distinct == messages*len(stormed)
	})
	for _, p := range processes { // what is delivered once more meanwhile counts too
		p.term()
		p.wait(t)
	}
	if err := pool.QueryRow(t.Context(), `SELECT count(*), (SELECT count(*) FROM pgsagaz.inbox_dead) FROM ledger`).Scan(&effects, &dead); err != nil {
		t.Fatal(err)
	}
	if effects != messages*len(stormed) || dead != 0 {
		t.Errorf("%d effects of %d messages on %d consumers, and %d dead letters", effects, messages, len(stormed), dead)
	}
	t.Logf("%d messages, %d deliveries to each of %d consumers, %d processes killed", messages, deliveries, len(stormed), kills)
}
