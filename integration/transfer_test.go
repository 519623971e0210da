//go:build unix

package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/rpc"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Transfer is the input of a saga that moves money between two accounts of a bank and pays a fee outside of it. It publishes
// a message for each movement, by account, in the order of the account's own count.
//
//	debit ─ fee ┬ stamp ┬ join ─ credit ─ tell
//	            └ file  ┘
//
// join and credit share a transaction.
type Transfer struct {
	From, To int
	Cents    int64
	Fails    bool // tell is refused: all goes back
}

// SagaName is the saga's name.
func (Transfer) SagaName() string { return "transfer" }

type transferCall = pgengine.Call[Transfer]

const bankSchema = `
	CREATE TABLE account (id integer PRIMARY KEY, cents bigint NOT NULL, moves bigint NOT NULL DEFAULT 0);
	CREATE TABLE effect (saga uuid NOT NULL, step text NOT NULL, direction text NOT NULL);
	CREATE TABLE movement (saga uuid NOT NULL, step text NOT NULL, direction text NOT NULL, account integer NOT NULL, cents bigint NOT NULL);
	CREATE TABLE said (event uuid PRIMARY KEY, key text NOT NULL, n bigint NOT NULL);
	CREATE TABLE ledger (consumer text NOT NULL, event uuid NOT NULL, key text NOT NULL, n bigint NOT NULL);`

// told is the message.
type told struct {
	Account int
	N       int64 // the account's own count
	Cents   int64
}

// move books cents on an account, counts, and tells the world times over.
func move(ctx context.Context, tx pgx.Tx, c transferCall, direction string, account int, cents int64, times int) error {
	if _, err := tx.Exec(ctx, `INSERT INTO movement VALUES ($1, $2, $3, $4, $5)`, c.SagaID, c.Step, direction, account, cents); err != nil {
		return err
	}
	var moves int64
	if err := tx.QueryRow(ctx, `UPDATE account SET cents = cents + $2, moves = moves + $3 WHERE id = $1 RETURNING moves`, account, cents, times).Scan(&moves); err != nil {
		return err
	}
	for i := range times {
		t := told{Account: account, N: moves - int64(times-1-i), Cents: cents}
		m := outbox.JSON("movements", fmt.Sprint(account), t)
		m.ID = uuid.Must(uuid.NewV7())
		if _, err := tx.Exec(ctx, `INSERT INTO said VALUES ($1, $2, $3)`, m.ID, m.Key, t.N); err != nil {
			return err
		}
		if err := outbox.Publish(ctx, tx, m); err != nil {
			return err
		}
	}
	return nil
}

func acted(ctx context.Context, tx pgx.Tx, c transferCall, direction string) error {
	_, err := tx.Exec(ctx, `INSERT INTO effect VALUES ($1, $2, $3)`, c.SagaID, c.Step, direction)
	return err
}

// transfers is the definition.
func transfers(c *client) pgengine.Definition {
	writes := func(name string, do, undo func(context.Context, pgx.Tx, transferCall) error, after ...pgengine.Step[Transfer]) pgengine.TxStep[Transfer, int] {
		with := func(direction string, f func(context.Context, pgx.Tx, transferCall) error) func(context.Context, pgx.Tx, transferCall) error {
			return func(ctx context.Context, tx pgx.Tx, call transferCall) error {
				if err := acted(ctx, tx, call, direction); err != nil || f == nil {
					return err
				}
				return f(ctx, tx, call)
			}
		}
		do, undo = with("do", do), with("undo", undo)
		return pgengine.TxStep[Transfer, int]{
			Name: name, After: after, Retry: patiently, UndoRetry: undoQuickly,
			Do:   func(ctx context.Context, tx pgx.Tx, call transferCall) (int, error) { return 1, do(ctx, tx, call) },
			Undo: func(ctx context.Context, tx pgx.Tx, call transferCall, _ int) error { return undo(ctx, tx, call) },
		}
	}
	calls := func(name string, after ...pgengine.Step[Transfer]) pgengine.Activity[Transfer, string] {
		return pgengine.Activity[Transfer, string]{
			Name: name, After: after, Retry: patiently, UndoRetry: undoQuickly,
			Do:   func(ctx context.Context, call transferCall) (string, error) { return c.do(ctx, call.Key()) },
			Undo: func(ctx context.Context, call transferCall, _ string) error { return c.undo(ctx, call.DoKey()) },
		}
	}
	debit := writes("debit",
		func(ctx context.Context, tx pgx.Tx, c transferCall) error {
			return move(ctx, tx, c, "do", c.Input.From, -c.Input.Cents, 2)
		},
		func(ctx context.Context, tx pgx.Tx, c transferCall) error {
			return move(ctx, tx, c, "undo", c.Input.From, c.Input.Cents, 1)
		})
	fee := calls("fee", debit)
	fee.Lookup = func(ctx context.Context, call transferCall) (string, bool, error) { return c.find(ctx, call.DoKey()) }
	stamp := writes("stamp", nil, nil, fee)
	file := writes("file", nil, nil, fee)
	join := writes("join", nil, nil, stamp, file)
	credit := writes("credit",
		func(ctx context.Context, tx pgx.Tx, c transferCall) error {
			return move(ctx, tx, c, "do", c.Input.To, c.Input.Cents, 3)
		},
		func(ctx context.Context, tx pgx.Tx, c transferCall) error {
			return move(ctx, tx, c, "undo", c.Input.To, -c.Input.Cents, 1)
		}, join)
	tell := calls("tell", credit)
	plain := tell.Do
	tell.Do = func(ctx context.Context, call transferCall) (string, error) {
		if call.Input.Fails {
			return "", pgengine.Terminal(errors.New("nobody wants to hear it"))
		}
		return plain(ctx, call)
	}
	return pgengine.Saga[Transfer]{Version: 1, Output: tell, Fuse: true, Steps: pgengine.Steps[Transfer](debit, fee, stamp, file, join, credit, tell)}
}

// jump sets the wall clock of this process to and fro.
func jump(ctx context.Context, every time.Duration, log *slog.Logger) {
	for i := 0; ctx.Err() == nil; i++ {
		if err := setWallClock([]time.Duration{time.Hour, -time.Hour, 0}[i%3]); err != nil {
			log.Error(err.Error())
			os.Exit(1)
		}
		rest(ctx, every)
	}
}

// patiently outlasts any outage of a torture.
var patiently = pgengine.Retry{MaxAttempts: 1000, Initial: 20 * time.Millisecond, Max: 200 * time.Millisecond}

// runBank is a process of the torture: it works the sagas, relays their messages, or consumes them.
func runBank(ctx context.Context, o workerOptions, log *slog.Logger) error {
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return err
	}
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	if o.Restless > 0 {
		go jump(ctx, o.Restless, log)
	}
	if o.Gauge > 0 {
		go gauge(ctx, o.Gauge, log)
	}
	switch o.Role {
	case "worker":
		engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{transfers(newClient(o.Outside, o.ID))}, Logger: log})
		if err != nil {
			return err
		}
		worker, err := jobs.NewWorker(engine, jobs.Config{ID: o.ID, JobPerStep: o.JobPerStep, Lease: o.Lease, Grace: o.Grace})
		if err != nil {
			return err
		}
		return worker.Run(ctx)
	case "relay":
		client, err := rpc.Dial("tcp", o.Post)
		if err != nil {
			return err
		}
		relay, err := outbox.NewRelay(pool, postPublisher{client}, outbox.Config{Name: o.ID, Lease: o.Lease, PublishTimeout: 2 * time.Second, RotateRows: 5000, RotateEvery: 2 * time.Second, Logger: log})
		if err != nil {
			return err
		}
		return relay.Run(ctx)
	}
	source, err := joinPost(o.Post, o.Role)
	if err != nil {
		return err
	}
	consumer, err := inbox.NewConsumer(pool, source, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		_, err := tx.Exec(ctx, `INSERT INTO ledger SELECT $1, $2, $3, ($4::json ->> 'N')::bigint`, o.Role, m.ID, m.Key, string(m.Payload))
		return err
	}, inbox.Config{Name: o.Role, Workers: 2, Batch: 50, MaxAttempts: 1000, Backoff: inbox.Backoff{Initial: 10 * time.Millisecond, Max: 200 * time.Millisecond}, Grace: o.Grace, Logger: log})
	if err != nil {
		return err
	}
	return consumer.Run(ctx)
}
