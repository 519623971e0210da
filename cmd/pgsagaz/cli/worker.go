package cli

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

var workerSettings = []string{"direct-url", "pool-size", "max-workers", "queues", "worker-id", "job-per-step", "no-listen", "wait-for-schema", "lease", "grace", "poll", "sweep",
	"archive-after", "keep-archive", "keep-keys",
	"only", "broker", "relay-lease", "no-optimistic", "rejected-attempts", "on-rejected", "keep-messages", "max-pending"}

func (a *app) worker() *cobra.Command {
	cmd := &cobra.Command{
		Use: "worker", Short: "Work this program's sagas and publish their messages, until told to stop by SIGINT or SIGTERM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.work(cmd.Context(), a.Sagas) },
	}
	a.cfg.bind(cmd.Flags(), workerSettings...)
	return cmd
}

// work runs sagas and a relay until ctx ends. With --json it prints an object when it begins and one when it ends.
func (a *app) work(ctx context.Context, sagas []pgengine.Definition) error {
	config, err := a.poolConfig()
	if err != nil {
		return err
	}
	direct, err := a.directConfig()
	if err != nil {
		return err
	}
	queues, err := parseQueues(a.cfg.queues)
	if err != nil {
		return err
	}
	config.MaxConns = int32(a.cfg.poolSize)
	a.limitIdle(config)
	sql.WakeOnCommit(config) // for steps that start sagas or publish
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	group, running := errgroup.WithContext(ctx)

	runRelay, closeBroker, err := a.relay(ctx, pool, direct)
	if err != nil {
		return err
	}
	defer func() {
		if err := closeBroker(); err != nil {
			a.logger(slog.LevelInfo).Warn("the broker's connections did not close", "error", err)
		}
	}()
	runSagas, e := func(context.Context) error { return nil }, workerEvent{Worker: a.cfg.workerID, Sagas: []string{}}
	if a.cfg.only != "relay" {
		engine, err := pgengine.New(pool, pgengine.Config{Sagas: sagas, Logger: a.logger(slog.LevelInfo), Codec: a.codec})
		if err != nil {
			return err
		}
		worker, err := jobs.NewWorker(engine, jobs.Config{
			ID: a.cfg.workerID, MaxWorkers: a.cfg.maxWorkers, Queues: queues, JobPerStep: a.cfg.jobPerStep, NoListen: a.cfg.noListen,
			Lease: a.cfg.lease, Grace: a.cfg.grace, Poll: a.cfg.poll, Sweep: a.cfg.sweep, Direct: direct,
			ArchiveAfter: a.cfg.archiveAfter, KeepArchive: a.cfg.keepArchive, KeepKeys: a.cfg.keepKeys,
		})
		if err != nil {
			return &usageError{err}
		}
		runSagas, e.Worker, e.Sagas = worker.Run, worker.ID(), engine.Definitions()
	}
	e.Event = "starting"
	if err := a.event(e); err != nil {
		return err
	}
	for _, run := range []func(context.Context) error{runSagas, runRelay} {
		group.Go(func() error {
			if err := a.awaitSchema(running, pool); err != nil || running.Err() != nil {
				return err
			}
			return run(running)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	e.Event = "stopped"
	return a.event(e)
}

// relay makes what publishes messages: nothing, without a broker or with --only sagas.
func (a *app) relay(ctx context.Context, pool *pgxpool.Pool, direct *pgx.ConnConfig) (run func(context.Context) error, closeBroker func() error, err error) {
	run, closeBroker = func(context.Context) error { return nil }, func() error { return nil }
	switch {
	case a.cfg.only == "sagas":
		return run, closeBroker, nil
	case a.cfg.broker == "":
		return run, closeBroker, nil
	}
	publisher, err := a.publisher(ctx)
	if err != nil {
		return nil, nil, err
	}
	relay, err := outbox.NewRelay(pool, publisher, outbox.Config{
		Name: a.cfg.workerID, Lease: a.cfg.relayLease, Poll: a.cfg.poll, NoListen: a.cfg.noListen, Direct: direct,
		Optimistic: &outbox.Optimistic{Enabled: !a.cfg.noOptimistic}, Archive: a.cfg.keepMessages, MaxPending: int64(a.cfg.maxPending),
		Retry:  outbox.Retry{MaxAttempts: a.cfg.rejectedAttempts, Then: outbox.Verdict(a.cfg.onRejected)},
		Logger: a.logger(slog.LevelInfo), Codec: a.codec,
	})
	if err != nil {
		return nil, nil, errors.Join(&usageError{err}, publisher.Close())
	}
	return relay.Run, publisher.Close, nil
}

type workerEvent struct {
	Event  string   `json:"event"`
	Worker string   `json:"worker"`
	Sagas  []string `json:"sagas"`
}

// event is a line of JSON, where JSON was asked for; the log tells people.
func (a *app) event(e workerEvent) error {
	if !a.cfg.json {
		return nil
	}
	return json.NewEncoder(a.Stdout).Encode(e)
}

// parseQueues reads name or name=workers; nil if there are none.
func parseQueues(list []string) (map[string]int, error) {
	var queues map[string]int
	for _, item := range list {
		name, number, given := strings.Cut(item, "=")
		n := 0
		if given {
			var err error
			if n, err = strconv.Atoi(number); err != nil || n < 1 {
				return nil, usagef("--queues: %q is not of the form name or name=workers, with 1 worker or more", item)
			}
		}
		if name == "" {
			return nil, usagef("--queues: %q names no queue", item)
		}
		if queues == nil {
			queues = map[string]int{}
		}
		queues[name] = n
	}
	return queues, nil
}
