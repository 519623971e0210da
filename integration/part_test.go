//go:build unix

package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/rpc"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql"
)

// partVariable holds the options of a relay or of consumers, and makes this binary a process of such.
const partVariable = "PGSAGAZ_INTEGRATION_PART"

// partOptions are what such a process is told.
type partOptions struct {
	URL       string   // of the database
	Post      string   // host:port of the test's broker; "": a real one
	Route     string   // of a real one: kafka, amqp or redis
	Address   string   // of a real one
	Topic     string   // at a real one
	Member    string   // what this process is called among the members of its groups
	Consumers []string // none: it is a relay
	Failpoint string   // where to kill itself; "": nowhere
	Hit       int      // at which hit of it
}

func runPart(o partOptions, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return err
	}
	config.MaxConns = 10
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if o.Failpoint != "" {
		arm(o.Failpoint, o.Hit)
	}
	log.Info("worker started")
	if len(o.Consumers) > 0 {
		return runConsumers(ctx, pool, o)
	}
	return runRelay(ctx, pool, o)
}

// relayConfig makes everything that a relay does happen often.
func relayConfig() outbox.Config {
	return outbox.Config{Lease: 700 * time.Millisecond, Batch: 20, Grace: time.Second, RotateRows: 50, RotateEvery: 300 * time.Millisecond,
		Retry: outbox.Retry{MaxAttempts: 3, Initial: 10 * time.Millisecond, Max: 20 * time.Millisecond}, Logger: slog.New(slog.DiscardHandler)}
}

// runRelay is a relay, beside which a writer publishes messages of his own right after their commits.
func runRelay(ctx context.Context, pool *pgxpool.Pool, o partOptions) error {
	client, err := rpc.Dial("tcp", o.Post)
	if err != nil {
		return err
	}
	p := postPublisher{client}
	relay, err := outbox.NewRelay(pool, p, relayConfig())
	if err != nil {
		return err
	}
	direct, err := outbox.NewDirect(pool, p, outbox.DirectConfig{Lease: time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return relay.Run(ctx) })
	group.Go(func() error {
		for ctx.Err() == nil {
			var send func(context.Context) error
			m := outbox.Message{Topic: "t", Payload: fmt.Append(nil, rand.Int64())}
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
				if _, err := tx.Exec(ctx, `INSERT INTO truth (key, payload) VALUES ('', $1)`, string(m.Payload)); err != nil {
					return err
				}
				send, err = direct.PublishAfterCommit(ctx, tx, m)
				return err
			})
			if err == nil {
				_ = send(ctx) // what fails leaves with a relay
			}
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	return group.Wait()
}

// runConsumers are consumers that write what they take into a ledger.
func runConsumers(ctx context.Context, pool *pgxpool.Pool, o partOptions) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range o.Consumers {
		source, err := o.source(name)
		if err != nil {
			return err
		}
		c, err := inbox.NewConsumer(pool, source, takes(name), inbox.Config{Name: name, Workers: 2, Batch: 10, MaxInFlight: 100, MaxAttempts: 1000,
			Backoff: inbox.Backoff{Initial: 2 * time.Millisecond, Max: 20 * time.Millisecond}, Grace: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		group.Go(func() error { return c.Run(ctx) })
	}
	if o.Failpoint != "" {
		group.Go(func() error {
			for ctx.Err() == nil {
				_, _ = inbox.Cleanup(ctx, pool, nil) // it may be cut off by the end
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		})
	}
	return group.Wait()
}

func (o partOptions) source(consumer string) (inbox.Source, error) {
	if o.Post != "" {
		return joinPost(o.Post, consumer)
	}
	r, err := o.route()
	if err != nil {
		return nil, err
	}
	return r.source(&brokertest.Net{}, consumer)
}

func (o partOptions) route() (route, error) {
	switch o.Route {
	case "kafka":
		return kafkaRouteTo(o.Address, o.Topic), nil
	case "amqp":
		return amqpRouteTo(o.Address, o.Topic), nil
	case "redis":
		return redisRouteTo(o.Address, o.Topic, o.Member)
	}
	return route{}, fmt.Errorf("no route %q", o.Route)
}

// takes enters a message in the ledger. Now and then it fails, or panics; a letter that nobody can deliver fails until it is cured.
func takes(consumer string) inbox.Handler {
	return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if strings.HasPrefix(m.Key, "dead") {
			var cured bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM cured)`).Scan(&cured); err != nil {
				return err
			}
			if !cured {
				return inbox.Terminal(errors.New("nobody can deliver this"))
			}
		}
		if _, err := tx.Exec(ctx, `INSERT INTO ledger (consumer, event, key) VALUES ($1, $2, $3)`, consumer, m.ID, m.Key); err != nil {
			return err
		}
		switch rand.IntN(60) {
		case 0:
			return errors.New("not this time")
		case 1:
			panic("oh")
		case 2:
			return inbox.Later(5*time.Millisecond, "not now")
		}
		return nil
	}
}
