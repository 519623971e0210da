package cli

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// reach bounds how long a command that does one thing waits for a database that does not answer.
const reach = 5 * time.Second

// poolConfig says where the database is and does not go there.
func (a *app) poolConfig() (*pgxpool.Config, error) {
	if a.cfg.databaseURL == "" {
		return nil, usagef("no database: give --database-url, or set PGSAGAZ_DATABASE_URL or DATABASE_URL")
	}
	config, err := pgxpool.ParseConfig(a.cfg.databaseURL)
	if err != nil {
		return nil, usagef("--database-url: %w", err)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = reach
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "pgsagaz"
	}
	return config, nil
}

// limitIdle gives a pool that is for steps alone the limit that every step would set otherwise: a process
// that is stopped inside a transaction must not keep its locks. Poolers refuse run-time parameters.
func (a *app) limitIdle(config *pgxpool.Config) {
	if a.cfg.directURL == "" {
		config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = strconv.FormatInt(a.cfg.lease.Milliseconds(), 10)
	}
}

// directConfig is how to reach the server itself; nil: as the pool does.
func (a *app) directConfig() (*pgx.ConnConfig, error) {
	if a.cfg.directURL == "" {
		return nil, nil
	}
	config, err := pgx.ParseConfig(a.cfg.directURL)
	if err != nil {
		return nil, usagef("--direct-url: %w", err)
	}
	return config, nil
}

// withPool runs f with a database that answers.
func (a *app) withPool(ctx context.Context, f func(*pgxpool.Pool) error) error {
	config, err := a.poolConfig()
	if err != nil {
		return err
	}
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	bounded, cancel := context.WithTimeout(ctx, 2*reach)
	defer cancel()
	if err := pool.Ping(bounded); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return f(pool)
}

// withEngine runs f with an engine that starts, shows and controls sagas, and has the code of none: the
// database knows which there are.
func (a *app) withEngine(ctx context.Context, f func(*pgengine.Engine) error) error {
	return a.withPool(ctx, func(pool *pgxpool.Pool) error {
		if err := sql.CheckVersion(ctx, pool); err != nil {
			return err
		}
		engine, err := pgengine.New(pool, pgengine.Config{Logger: a.logger(slog.LevelWarn)})
		if err != nil {
			return err
		}
		return f(engine)
	})
}
