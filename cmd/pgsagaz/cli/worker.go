package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

var workerSettings = []string{"direct-url", "pool-size", "max-workers", "queues", "worker-id", "job-per-step", "no-listen", "lease", "grace", "poll", "sweep", "archive-after", "keep-archive", "keep-keys"}

func (a *app) worker() *cobra.Command {
	cmd := &cobra.Command{
		Use: "worker", Short: "Work this program's sagas, until told to stop by SIGINT or SIGTERM", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.work(cmd.Context(), a.Sagas) },
	}
	a.cfg.bind(cmd.Flags(), workerSettings...)
	return cmd
}

// work runs a worker until ctx ends. With --json it prints an object when it begins and one when it ends.
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
	if a.cfg.poolSize < 1 || a.cfg.poolSize > 1<<15 {
		return usagef("--pool-size: %d is not between 1 and %d", a.cfg.poolSize, 1<<15)
	}
	if a.cfg.maxWorkers < 1 {
		return usagef("--max-workers: %d is below 1", a.cfg.maxWorkers)
	}
	config.MaxConns = int32(a.cfg.poolSize)
	a.limitIdle(config)
	sql.WakeOnCommit(config) // for steps that start sagas
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: sagas, Logger: a.logger(slog.LevelInfo)})
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
	if err := a.event(workerEvent{"starting", worker.ID(), engine.Definitions()}); err != nil {
		return err
	}
	if err := worker.Run(ctx); err != nil {
		return err
	}
	return a.event(workerEvent{"stopped", worker.ID(), engine.Definitions()})
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
