package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// reach bounds how long a command that does one thing waits for a database that does not answer.
const reach = 5 * time.Second

var errNoDatabase = errors.New("no database: give --database-url, or set PGSAGAZ_DATABASE_URL or DATABASE_URL")

var errNotThere = errors.New("this needs the database itself, and can't be asked of the console at --server: give --database-url, and no --server")

// poolConfig says where the database is and does not go there.
func (a *app) poolConfig() (*pgxpool.Config, error) {
	switch {
	case a.remote() && (a.cfg.databaseURL == "" || a.cfg.origins["server"] == "--server"):
		return nil, &usageError{errNotThere}
	case a.cfg.databaseURL == "":
		return nil, &usageError{errNoDatabase}
	}
	config, err := pgxpool.ParseConfig(a.cfg.databaseURL)
	if err != nil {
		return nil, usagef("--database-url: %w", dsnError(err))
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
		return nil, usagef("--direct-url: %w", dsnError(err))
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
	if err := a.ping(ctx, pool); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	return f(pool)
}

// ping waits for a database that is away, as long as it is to.
func (a *app) ping(ctx context.Context, pool *pgxpool.Pool) error {
	for end := time.Now().Add(a.cfg.waitForDatabase); ; {
		bounded, cancel := context.WithTimeout(ctx, 2*reach)
		err := pool.Ping(bounded)
		cancel()
		if err == nil || !away(err) || time.Now().After(end) {
			return err
		}
		a.logger(slog.LevelWarn).WarnContext(ctx, "waiting for the database", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(min(time.Second, time.Until(end))):
		}
	}
}

// awaitSchema waits for a schema that this program can run on, if it is to; whatever else is wrong is for the worker to say.
func (a *app) awaitSchema(ctx context.Context, pool *pgxpool.Pool) error {
	if !a.cfg.waitForSchema {
		return nil
	}
	log := a.logger(slog.LevelInfo)
	for said, n := "", 0; ; n++ {
		err := sql.CheckVersion(ctx, pool)
		var schema *sql.SchemaError
		switch {
		case err == nil:
			if n > 0 {
				log.InfoContext(ctx, "the schema is there")
			}
			return nil
		case errors.As(err, &schema) && schema.Schema >= schema.Code: // newer, and without room for this build: waiting mends nothing
			return err
		case schema == nil && !away(err):
			return err
		}
		if now := err.Error(); now != said || n%60 == 0 {
			log.WarnContext(ctx, "waiting for the schema", "error", err)
			said = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(schemaPoll):
		}
	}
}

// schemaPoll is how often awaitSchema looks.
const schemaPoll = 500 * time.Millisecond

// away: the database does not answer, or not yet. A wrong password, or a missing right, is an answer.
func away(err error) bool {
	state := sql.State(err)
	return state == "" || slices.Contains([]string{"08", "53", "57"}, state[:2]) || state == "3D000" // or it is still to be made
}

// withEngine runs f with an engine that starts, shows and controls sagas, and has the code of none: the
// database knows which there are.
func (a *app) withEngine(ctx context.Context, f func(*pgengine.Engine) error) error {
	return a.withPool(ctx, func(pool *pgxpool.Pool) error {
		if err := sql.CheckVersion(ctx, pool); err != nil {
			return err
		}
		engine, err := pgengine.New(pool, pgengine.Config{Logger: a.logger(slog.LevelWarn), TracerProvider: a.traces, Codec: a.codec})
		if err != nil {
			return err
		}
		return f(engine)
	})
}
