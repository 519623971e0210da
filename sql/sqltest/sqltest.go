// Package sqltest gives every test a Postgres database of its own.
//
//	func TestOrder(t *testing.T) {
//		t.Parallel()
//		pool := sqltest.New(t) // the schema pgsagaz is there, and nothing else
//		...
//	}
//
// A database is a copy of a template that is migrated once; making it, checking and dropping it takes some 100 ms. Commits are real, and what Postgres keeps
// a database, as LISTEN and advisory locks, does not reach other tests. When the test ends, the database itself says whether the
// test broke an invariant of the schema (sql.Check), and is dropped.
//
// The server is the first of these that there is:
//
//  1. the one at PGSAGAZ_TEST_DATABASE_URL, whose user must be allowed to create databases;
//  2. a container of the image PGSAGAZ_TEST_IMAGE;
//  3. Postgres on this machine (PGSAGAZ_TEST_POSTGRES: the directory of its initdb), or else a downloaded one: see package localpg;
//  4. a container of DefaultImage.
//
// In the last three it belongs to the test binary: it starts with the first test that asks for a database, in about a second, and
// ends with the process. Main ends it in an orderly way.
//
// Test binaries that run at once on one given server share the template. It stays there, as its name contains a hash of the
// migrations and the next run needs it again: pgsagaz_template_*. A test that was killed leaves pgsagaz_test_* behind.
package sqltest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

const (
	// cleanupTimeout bounds what happens after a test. The test's own context has ended by then.
	cleanupTimeout = time.Minute

	// releaseTimeout is how long a test's connections may still be in use when it has ended.
	releaseTimeout = 5 * time.Second
)

// New returns a pool on a fresh, migrated database. The test fails at its end if it leaves a violation of an invariant, or
// keeps a connection of the pool.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Config(t, nil)
}

// Config is New with a change to the pool's configuration, such as a tracer or MaxConns. mutate may be nil.
func Config(t testing.TB, mutate func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return open(t, URL(t), mutate)
}

// Empty returns a pool on a fresh database without the schema, in which nothing is checked.
func Empty(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return open(t, create(t, empty), nil)
}

// URL returns the address of a fresh, migrated database, for a process that the test starts. The test fails at its end
// if there is a violation of an invariant.
func URL(t testing.TB) string {
	t.Helper()
	return migrated(t, sql.Check)
}

// Server starts a Postgres for this test alone, which it may crash. It holds no schema; stopped when the test ends.
// The test is skipped if the machine has no Postgres and none can be downloaded: a container does not crash alike.
func Server(t testing.TB) *localpg.Server {
	t.Helper()
	server, err := startLocal(t.Context(), environment().bin)
	if errors.Is(err, localpg.ErrNoBinaries) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return server
}

// open returns a pool that is closed when the test ends.
func open(t testing.TB, url string, mutate func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if mutate != nil {
		mutate(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Close waits for ever for a connection that the test forgot to release, so that is found out first.
		for begin := time.Now(); pool.Stat().AcquiredConns() > 0; time.Sleep(time.Millisecond) {
			if time.Since(begin) > releaseTimeout {
				t.Errorf("sqltest: %d connections of the pool are still in use after the test", pool.Stat().AcquiredConns())
				return
			}
		}
		pool.Close()
	})
	return pool
}

// migrated clones a migrated database, in which check runs before it is dropped.
func migrated(t testing.TB, check func(context.Context, *pgxpool.Pool) ([]sql.Violation, error)) (url string) {
	t.Helper()
	url = create(t, template())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		pool, err := checkPool(ctx, url)
		if err != nil {
			t.Errorf("sqltest: %v", err)
			return
		}
		defer pool.Close()
		violations, err := check(ctx, pool)
		if err != nil {
			t.Errorf("sqltest: check the invariants: %v", err)
		}
		for _, violation := range violations {
			t.Errorf("sqltest: the test left a violation: %v", violation)
		}
	})
	return url
}

// checkPool is of its own, as the test has closed its pool or never had one. Compiling the checks, which Postgres is led to by
// the missing statistics of new tables, takes ten times as long as running them.
func checkPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["jit"] = "off"
	return pgxpool.NewWithConfig(ctx, config)
}
