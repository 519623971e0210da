package integration

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/amqpsub"
	"github.com/pgsagaz/pgsagaz/inbox/kafkasub"
	"github.com/pgsagaz/pgsagaz/inbox/redissub"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/amqppub"
	"github.com/pgsagaz/pgsagaz/outbox/kafkapub"
	"github.com/pgsagaz/pgsagaz/outbox/redispub"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// route is a way from an outbox to an inbox.
type route struct {
	publisher func(n *brokertest.Net) (outbox.Publisher, error)
	source    func(n *brokertest.Net, consumer string) (inbox.Source, error)
	members   int // of a consumer, so that the order of keys holds
}

func kafkaRoute(t *testing.T, topic string) route { return kafkaRouteTo(brokertest.Kafka(t), topic) }

func kafkaRouteTo(broker, topic string) route {
	return route{members: 2,
		publisher: func(n *brokertest.Net) (outbox.Publisher, error) {
			return kafkapub.New(kafkapub.Config{Brokers: []string{broker}, Dial: n.Dial, UnknownTopic: kafkapub.Create, Partitions: 4})
		},
		source: func(n *brokertest.Net, consumer string) (inbox.Source, error) {
			return kafkasub.New(kafkasub.Config{Brokers: []string{broker}, Dial: n.Dial, Group: topic + consumer, Topics: []string{topic},
				SessionTimeout: 6 * time.Second, Heartbeat: 300 * time.Millisecond, WatchPartitions: time.Second, Logger: slog.New(slog.DiscardHandler)})
		},
	}
}

func amqpRoute(t *testing.T, topic string) route { return amqpRouteTo(brokertest.AMQP(t), topic) }

// bound waits until a queue of RabbitMQ is there and bound: what is published before is not for it. A source consumes after it has
// bound its queue.
func bound(t *testing.T, topic string, r route, consumer string) {
	t.Helper()
	s, err := r.source(&brokertest.Net{}, consumer)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	fetched := make(chan struct{})
	go func() {
		defer close(fetched)
		_, _ = s.Fetch(ctx, 1)
	}()
	defer func() {
		cancel()
		<-fetched
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := amqp.Dial(brokertest.AMQP(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for {
		channel, err := conn.Channel() // one that is not found closes it
		if err != nil {
			t.Fatal(err)
		}
		q, err := channel.QueueDeclarePassive(topic+consumer, true, false, false, false, nil)
		if err == nil && q.Consumers > 0 {
			return
		}
		_ = channel.Close()
		select {
		case <-fetched:
			t.Fatalf("the source of %s ended", consumer)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func amqpRouteTo(url, topic string) route {
	return route{members: 2, // one of which is active
		publisher: func(n *brokertest.Net) (outbox.Publisher, error) {
			return amqppub.New(amqppub.Config{URL: url, Dial: n.Dial})
		},
		source: func(n *brokertest.Net, consumer string) (inbox.Source, error) {
			return amqpsub.New(amqpsub.Config{URL: url, Dial: n.Dial, Queue: topic + consumer, Bindings: []amqpsub.Binding{{Exchange: topic}}, SingleActive: true})
		},
	}
}

func redisRoute(t *testing.T, topic string) route {
	r, err := redisRouteTo(brokertest.Redis(t), topic, "the only one")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func redisRouteTo(url, topic, member string) (route, error) {
	parsed, err := redis.ParseURL(url)
	if err != nil {
		return route{}, err
	}
	options := func(n *brokertest.Net) redis.UniversalOptions {
		return redis.UniversalOptions{Addrs: []string{parsed.Addr}, Username: parsed.Username, Password: parsed.Password, DB: parsed.DB, Dialer: n.Dial}
	}
	return route{members: 1,
		publisher: func(n *brokertest.Net) (outbox.Publisher, error) {
			return redispub.New(redispub.Config{Options: options(n)})
		},
		source: func(n *brokertest.Net, consumer string) (inbox.Source, error) {
			return redissub.New(redissub.Config{Options: options(n), Group: consumer, Consumer: member, Topics: []string{topic}, ClaimAfter: 2 * time.Second})
		},
	}, nil
}

// TestThroughBrokers: what commits in one database takes effect in another, exactly once for each consumer and along each key in
// order, while connections to the broker are cut, answers get lost, and relays and consumers come and go.
func TestThroughBrokers(t *testing.T) {
	for name, newRoute := range map[string]func(*testing.T, string) route{"kafka": kafkaRoute, "amqp": amqpRoute, "redis": redisRoute} {
		t.Run(name, func(t *testing.T) {
			topic := brokertest.Name("through")
			r := newRoute(t, topic)
			if name == "amqp" {
				for _, consumer := range readers {
					bound(t, topic, r, consumer)
				}
			}
			throughBroker(t, topic, r)
		})
	}
}

// readers are the consumers of what goes through a broker.
var readers = []string{"mail", "search"}

// part is a relay or a member of a consumer, with a network of its own.
type part struct {
	net  brokertest.Net
	run  func(ctx context.Context, n *brokertest.Net) error
	stop func()
}

func (p *part) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.run(ctx, &p.net); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	p.stop = func() {
		cancel()
		<-done
	}
}

func throughBroker(t *testing.T, topic string, r route) {
	const keys, each = 16, 60
	consumers := readers
	shop, other := sqltest.New(t), sqltest.New(t)
	mustExec(t, shop, `CREATE TABLE orders (key text PRIMARY KEY, n int NOT NULL)`)
	mustExec(t, other, `CREATE TABLE ledger (at bigserial, consumer text, key text, n int)`)

	var parts []*part
	for range 2 {
		parts = append(parts, &part{run: func(ctx context.Context, n *brokertest.Net) error {
			p, err := r.publisher(n)
			if err != nil {
				return err
			}
			defer p.Close()
			relay, err := outbox.NewRelay(shop, p, outbox.Config{Lease: time.Second, PublishTimeout: 3 * time.Second, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			return relay.Run(ctx)
		}})
	}
	for _, consumer := range consumers {
		for range r.members {
			parts = append(parts, &part{run: func(ctx context.Context, n *brokertest.Net) error {
				s, err := r.source(n, consumer)
				if err != nil {
					return err
				}
				c, err := inbox.NewConsumer(other, s, enter(consumer), inbox.Config{Name: consumer, Workers: 2, Batch: 20, MaxAttempts: 1000,
					Backoff: inbox.Backoff{Initial: 5 * time.Millisecond, Max: 50 * time.Millisecond}, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					return err
				}
				return c.Run(ctx)
			}})
		}
	}
	for _, p := range parts {
		p.start(t)
	}
	defer func() {
		for _, p := range parts {
			p.stop()
		}
	}()

	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range keys / 4 * each {
				key := fmt.Sprintf("key %d", w*keys/4+i%(keys/4))
				err := pgx.BeginFunc(t.Context(), shop, func(tx pgx.Tx) error {
					var n int
					err := tx.QueryRow(t.Context(), `INSERT INTO orders VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET n = orders.n + 1 RETURNING n`, key).Scan(&n)
					if err != nil {
						return err
					}
					return outbox.Publish(t.Context(), tx, outbox.Message{Topic: topic, Key: key, Type: "order.changed", Payload: fmt.Append(nil, n)})
				})
				if err != nil {
					t.Errorf("writer: %v", err)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	writing := make(chan struct{})
	go func() { writers.Wait(); close(writing) }()

	faults := 0
	storm := time.NewTicker(60 * time.Millisecond)
	defer storm.Stop()
	for raging := true; raging; {
		select {
		case <-writing:
			raging = false
		case <-storm.C:
			p := parts[rand.IntN(len(parts))]
			faults++
			switch rand.IntN(12) {
			case 0:
				p.stop()
				p.start(t)
			case 1, 2:
				p.net.Mute() // until it is up again, below
			case 3, 4, 5, 6:
				p.net.Cut()
			default:
				p.net.Up()
			}
		}
	}
	for _, p := range parts {
		p.net.Up()
	}
	const want = keys * each
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		done := 0
		for _, consumer := range consumers {
			var n int
			if err := other.QueryRow(t.Context(), `SELECT count(DISTINCT (key, n)) FROM ledger WHERE consumer = $1`, consumer).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n == want {
				done++
			}
		}
		if done == len(consumers) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all has arrived: %s", counts(t, other))
		}
	}
	t.Logf("%d messages, %d faults: %s", want, faults, counts(t, other))
	var wrong string
	err := other.QueryRow(t.Context(), `SELECT coalesce(string_agg(format('%s: %s at %s of %s', consumer, n, place, key), '; '), '') FROM (
		SELECT consumer, key, n, row_number() OVER (PARTITION BY consumer, key ORDER BY at) AS place FROM ledger) x WHERE n <> place`).Scan(&wrong)
	if err != nil || wrong != "" {
		t.Errorf("not each once and in order: %.2000s %v", wrong, err)
	}
}

func enter(consumer string) inbox.Handler {
	return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		n, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			return err
		}
		if rand.IntN(50) == 0 {
			return fmt.Errorf("not this time")
		}
		_, err = tx.Exec(ctx, `INSERT INTO ledger (consumer, key, n) VALUES ($1, $2, $3)`, consumer, m.Key, n)
		return err
	}
}

func counts(t *testing.T, pool *pgxpool.Pool) (text string) {
	t.Helper()
	err := pool.QueryRow(t.Context(), `SELECT coalesce(string_agg(consumer || ' ' || n, ', '), 'none') FROM (SELECT consumer, count(*) AS n FROM ledger GROUP BY consumer) x`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustExec(t *testing.T, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
