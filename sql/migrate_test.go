package sql_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// marks are what the two records of migrations say.
func marks(t testing.TB, db sql.Querier) (applied []int, recorded string) {
	t.Helper()
	return list[int](t, db, "SELECT version FROM pgsagaz.schema_applied ORDER BY 1"),
		query[string](t, db, "SELECT coalesce(string_agg(version || ' ' || dirty, ','), 'none') FROM pgsagaz.schema_migrations")
}

func status(t testing.TB, db sql.Querier) sql.SchemaStatus {
	t.Helper()
	s, err := sql.Status(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMigrateUpDownUp(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	first := schema(t, pool, "pgsagaz")
	if len(first) < 100 {
		t.Fatalf("a migrated schema holds %d things, that is too few to be true", len(first))
	}
	if s := status(t, pool); s.Schema != sql.Version() || s.Code != sql.Version() || s.OldestCode < 1 || s.Dirty {
		t.Errorf("the status after a migration is %+v", s)
	}
	if err := sql.CheckVersion(t.Context(), pool); err != nil {
		t.Error(err)
	}
	applied, _ := marks(t, pool)

	// Each step down leaves a schema from which it goes up again.
	for n := range applied {
		if err := migrate(t.Context(), pool, -1); err != nil {
			t.Fatalf("down from %d: %v", applied[len(applied)-1-n], err)
		}
		want := 0
		if n < len(applied)-1 {
			want = applied[len(applied)-2-n]
		}
		if s := status(t, pool); s.Schema != want || s.Dirty {
			t.Errorf("one step down of %d: %+v", applied[len(applied)-1-n], s)
		}
	}
	if left := schema(t, pool, "pgsagaz"); slices.ContainsFunc(left, func(line string) bool {
		return !strings.Contains(line, "schema_applied") && !strings.Contains(line, "schema_migrations")
	}) {
		t.Errorf("all the way down there is still\n%s", strings.Join(left, "\n"))
	}
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	same(t, "up after down", schema(t, pool, "pgsagaz"), first)

	if err := migrate(t.Context(), pool, -len(applied)); err != nil {
		t.Errorf("all the way down at once: %v", err)
	}
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	same(t, "up after down", schema(t, pool, "pgsagaz"), first)
}

func TestMigrateAgainDoesNothing(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	const times = "SELECT string_agg(version || ' ' || applied_at, ',' ORDER BY version) FROM pgsagaz.schema_applied"
	before := query[string](t, pool, times)
	var log bytes.Buffer
	err := sql.Migrate(t.Context(), pool.Config().ConnConfig, &sql.MigrateOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil || log.Len() > 0 || query[string](t, pool, times) != before {
		t.Errorf("a second migration: %v, said %q", err, log.String())
	}
}

// TestSchemaErrors is what somebody reads whose process does not start.
func TestSchemaErrors(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	check := func(schema int, words ...string) {
		t.Helper()
		err := sql.CheckVersion(t.Context(), pool)
		var wrong *sql.SchemaError
		if !errors.As(err, &wrong) || wrong.Schema != schema || wrong.Code != sql.Version() {
			t.Fatalf("%v (%+v), want a SchemaError of schema %d", err, wrong, schema)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
	}
	check(0, "is not there", "pgsagaz migrate up")
	exec(t, pool, "CREATE SCHEMA pgsagaz") // by whoever prepares the rights
	check(0, "is not there")

	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), pool, -1); err != nil {
		t.Fatal(err)
	}
	older := status(t, pool).Schema
	check(older, fmt.Sprintf("at version %d", older), fmt.Sprintf("needs %d", sql.Version()), "pgsagaz migrate up")

	// A later build has migrated. Its schema still carries this code, or no longer does.
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	later := sql.Version() + 1
	exec(t, pool, "INSERT INTO pgsagaz.schema_applied (version) VALUES ($1)", later)
	exec(t, pool, "UPDATE pgsagaz.schema_migrations SET version = $1", later)
	exec(t, pool, "UPDATE pgsagaz.schema_info SET version = $1", later)
	if err := sql.CheckVersion(t.Context(), pool); err != nil {
		t.Errorf("a later schema that carries this code: %v", err)
	}
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Errorf("Migrate of an old pod during a rolling deploy: %v", err)
	}
	exec(t, pool, "UPDATE pgsagaz.schema_info SET oldest_code = $1", later)
	check(later, fmt.Sprintf("at version %d", later), fmt.Sprintf("needs code of version %d or later", later), fmt.Sprintf("this is %d", sql.Version()), "newer build")
}

// TestTheUsersOwnMigrationsAreLeftAlone: he uses golang-migrate too, is in the middle of something, and
// holds its lock.
func TestTheUsersOwnMigrationsAreLeftAlone(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	db := stdlib.OpenDB(*pool.Config().ConnConfig)
	defer db.Close()
	own, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := own.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := own.SetVersion(20240131, true); err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, pool, "SELECT string_agg(version || ' ' || dirty, ',') FROM public.schema_migrations"); got != "20240131 true" {
		t.Errorf("public.schema_migrations is now %s", got)
	}
	if got := list[string](t, pool, "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"); !slices.Equal(got, []string{"schema_migrations"}) {
		t.Errorf("in public there is now %q", got)
	}
	if err := own.Unlock(); err != nil {
		t.Error(err)
	}
}

func TestDump(t *testing.T) {
	t.Parallel()
	var script bytes.Buffer
	if err := sql.Dump(&script); err != nil {
		t.Fatal(err)
	}
	dumped, migrated := sqltest.Empty(t), sqltest.New(t)
	exec(t, dumped, script.String())
	same(t, "the dump's schema", schema(t, dumped, "pgsagaz"), schema(t, migrated, "pgsagaz"))
	gotApplied, gotRecorded := marks(t, dumped)
	wantApplied, wantRecorded := marks(t, migrated)
	if !slices.Equal(gotApplied, wantApplied) || gotRecorded != wantRecorded {
		t.Errorf("the dump records %v, %s; want %v, %s", gotApplied, gotRecorded, wantApplied, wantRecorded)
	}
	var log bytes.Buffer
	err := sql.Migrate(t.Context(), dumped.Config().ConnConfig, &sql.MigrateOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil || log.Len() > 0 {
		t.Errorf("Migrate after the dump: %v, said %q", err, log.String())
	}
	if err := migrate(t.Context(), dumped, -1); err != nil {
		t.Errorf("down after the dump: %v", err)
	}
}

// TestADirtyFlagIsRepaired: golang-migrate sets it in one transaction and runs the file in another, so a
// process that died leaves it on either side of the file.
func TestADirtyFlagIsRepaired(t *testing.T) {
	t.Parallel()
	want := schema(t, sqltest.New(t), "pgsagaz")
	for _, test := range []struct {
		name  string
		steps int // down before
		dirty string
	}{
		{"up, before the last file", -1, "13"},
		{"up, after the last file", 0, "13"},
		{"up, after a file in the middle", -2, "11"},
		{"down, before the file", 0, "12"},
		{"down, after the file", -1, "12"},
		{"the first file", -100, "1"},
		{"the last file down", -100, "-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pool := sqltest.New(t)
			if steps := test.steps; steps != 0 {
				applied, _ := marks(t, pool)
				if err := migrate(t.Context(), pool, max(steps, -len(applied))); err != nil {
					t.Fatal(err)
				}
			}
			exec(t, pool, "TRUNCATE pgsagaz.schema_migrations")
			exec(t, pool, "INSERT INTO pgsagaz.schema_migrations VALUES ("+test.dirty+", true)")
			if s := status(t, pool); test.dirty != "-1" && !s.Dirty {
				t.Errorf("the status does not say that it is dirty: %+v", s)
			}
			if err := migrate(t.Context(), pool, 0); err != nil {
				t.Fatal(err)
			}
			same(t, "the repaired schema", schema(t, pool, "pgsagaz"), want)
			if s := status(t, pool); s.Dirty || s.Schema != sql.Version() {
				t.Errorf("after the repair: %+v", s)
			}
		})
	}
}

// TestMigrateWaitsAndGivesUp: whoever waits for the lock says so when his context ends.
func TestMigrateWaitsAndGivesUp(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn, "SELECT pg_advisory_lock($1)", sql.MigrationLock)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := make(chan error, 1)
	go func() { waiting <- migrate(ctx, pool, 0) }()
	for query[int](t, pool, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE '%advisory%' AND pid <> pg_backend_pid() AND pid <> $1`, conn.Conn().PgConn().PID()) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-waiting; err == nil || !strings.Contains(err.Error(), "wait for the migration lock") {
		t.Errorf("a migration that had to wait too long: %v", err)
	}
	exec(t, conn, "SELECT pg_advisory_unlock($1)", sql.MigrationLock)
}
