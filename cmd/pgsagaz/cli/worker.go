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
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

var workerSettings = []string{"direct-url", "pool-size", "max-workers", "queues", "worker-id", "job-per-step", "no-listen", "wait-for-schema", "lease", "grace", "poll", "sweep",
	"archive-after", "keep-archive", "keep-keys",
	"only", "broker", "relay-lease", "no-optimistic", "rejected-attempts", "on-rejected", "keep-messages", "max-pending",
	"console", "console-token", "http-addr", "http-cert", "http-key", "http-token", "pprof",
	"otlp-endpoint", "otlp-headers", "otlp-service", "otlp-sample"}

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
	log, registry := a.logger(slog.LevelInfo), newRegistry()
	flush, err := a.openTraces(ctx, log)
	if err != nil {
		return err
	}
	defer flush() // after all else: whatever is held has been handed back by then
	config.MaxConns = int32(a.cfg.poolSize)
	a.limitIdle(config)
	sql.WakeOnCommit(config) // for steps that start sagas or publish
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	listener, err := a.listen(log)
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close() // where it comes to nothing
	}
	checks := []check{{"database", pool.Ping}, {"schema", func(ctx context.Context) error { return sql.CheckVersion(ctx, pool) }}}

	relay, closeBroker, err := a.relay(ctx, pool, direct, registry)
	if err != nil {
		return err
	}
	defer func() {
		if err := closeBroker(); err != nil {
			log.Warn("the broker's connections did not close", "error", err)
		}
	}()
	var run []func(context.Context) error
	var leases []func() error
	e := workerEvent{Worker: a.cfg.workerID, Sagas: []string{}}
	if relay != nil {
		run, leases = append(run, relay.Run), append(leases, relay.Ready)
		checks = append(checks, check{"broker", func(context.Context) error { return relay.BrokerReady() }})
	}
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: sagas, Logger: log, Registry: registry, TracerProvider: a.traces, Codec: a.codec})
	if err != nil {
		return err
	}
	if a.cfg.only != "relay" {
		worker, err := jobs.NewWorker(engine, jobs.Config{
			ID: a.cfg.workerID, MaxWorkers: a.cfg.maxWorkers, Queues: queues, JobPerStep: a.cfg.jobPerStep, NoListen: a.cfg.noListen,
			Lease: a.cfg.lease, Grace: a.cfg.grace, Poll: a.cfg.poll, Sweep: a.cfg.sweep, Direct: direct,
			ArchiveAfter: a.cfg.archiveAfter, KeepArchive: a.cfg.keepArchive, KeepKeys: a.cfg.keepKeys,
			Registry: registry,
		})
		if err != nil {
			return &usageError{err}
		}
		run, e.Worker, e.Sagas = append(run, worker.Run), worker.ID(), engine.Definitions()
		leases = append(leases, worker.Ready)
	} else {
		collector, err := jobs.NewCollector(pool, jobs.CollectorConfig{Registry: registry, Logger: log})
		if err != nil {
			return err
		}
		run = append(run, collector.Run)
	}
	checks = append(checks, check{"leases", func(context.Context) (err error) {
		for _, ready := range leases {
			err = errors.Join(err, ready())
		}
		return err
	}})
	if listener != nil {
		e.HTTP = listener.Addr().String()
		// It answers for as long as there is something to ask about: a worker that drains says so.
		serving, end := context.WithCancel(context.WithoutCancel(ctx))
		var server errgroup.Group
		server.Go(func() error { return a.serve(serving, listener, registry, checks, log) })
		defer func() {
			end()
			if err := server.Wait(); err != nil {
				log.Error("the worker's HTTP server has failed", "error", err)
			}
		}()
	}
	console, err := a.openConsole(ctx, engine)
	if err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	if console != nil {
		e.Console = console.url
		log.Info("the console is open", "address", console.url)
		group.Go(func() error { return console.run(running) })
	}
	e.Event = "starting"
	if err := a.event(e); err != nil {
		return err
	}
	for _, f := range run {
		group.Go(func() error {
			if err := a.awaitSchema(running, pool); err != nil || running.Err() != nil {
				return err
			}
			return f(running)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	e.Event = "stopped"
	return a.event(e)
}

// relay makes what publishes messages: nothing, without a broker or with --only sagas.
func (a *app) relay(ctx context.Context, pool *pgxpool.Pool, direct *pgx.ConnConfig, registry prometheus.Registerer) (relay *outbox.Relay, closeBroker func() error, err error) {
	closeBroker = func() error { return nil }
	switch {
	case a.cfg.only == "sagas":
		return nil, closeBroker, nil
	case a.cfg.broker == "":
		return nil, closeBroker, nil
	}
	publisher, err := a.publisher(ctx)
	if err != nil {
		return nil, nil, err
	}
	relay, err = outbox.NewRelay(pool, publisher, outbox.Config{
		Name: a.cfg.workerID, Lease: a.cfg.relayLease, Poll: a.cfg.poll, NoListen: a.cfg.noListen, Direct: direct,
		Optimistic: &outbox.Optimistic{Enabled: !a.cfg.noOptimistic}, Archive: a.cfg.keepMessages, MaxPending: int64(a.cfg.maxPending),
		Retry:  outbox.Retry{MaxAttempts: a.cfg.rejectedAttempts, Then: outbox.Verdict(a.cfg.onRejected)},
		Logger: a.logger(slog.LevelInfo), Registry: registry, TracerProvider: a.traces, Codec: a.codec,
	})
	if err != nil {
		return nil, nil, errors.Join(&usageError{err}, publisher.Close())
	}
	return relay, publisher.Close, nil
}

type workerEvent struct {
	Event  string   `json:"event"`
	Worker string   `json:"worker"`
	Sagas  []string `json:"sagas"`
	HTTP   string   `json:"http,omitempty"` // the address that it answers on; "": none
	// Console is its address; "": there is none.
	Console string `json:"console,omitempty"`
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
