package sqltest

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// recorder is a testing.TB that keeps what would have failed the test.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(form string, a ...any) {
	r.errors = append(r.errors, fmt.Sprintf(form, a...))
}
func (r *recorder) Error(a ...any) { r.errors = append(r.errors, fmt.Sprint(a...)) }

// end does what the testing package does after a test.
func (r *recorder) end() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

func exec(t *testing.T, pool *pgxpool.Pool, statement string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func query[T any](t *testing.T, pool *pgxpool.Pool, statement string, args ...any) (value T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), statement, args...).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDatabasesAreIsolated(t *testing.T) {
	a, b := New(t), New(t)
	exec(t, a, "CREATE TABLE mine ()")
	if query[bool](t, b, "SELECT to_regclass('mine') IS NOT NULL") {
		t.Error("a table of one test is seen by another")
	}
	// A migrated database has the schema, an empty one has not.
	const find = "SELECT to_regnamespace('pgsagaz') IS NOT NULL"
	if !query[bool](t, a, find) || query[bool](t, Empty(t), find) {
		t.Error("the schema pgsagaz has to be in what New returns, and not in what Empty returns")
	}
	if schema, err := sql.Check(t.Context(), a); err != nil || len(schema) > 0 {
		t.Errorf("a new database has violations: %v, %v", schema, err)
	}
}

func TestNotificationsDoNotCross(t *testing.T) {
	a, b := New(t), New(t)
	listener, err := a.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Release()
	if _, err := listener.Exec(t.Context(), "LISTEN news"); err != nil {
		t.Fatal(err)
	}
	exec(t, b, "NOTIFY news, 'theirs'")
	exec(t, a, "NOTIFY news, 'ours'")
	// Had theirs crossed it would come first: it was committed before.
	got, err := listener.Conn().WaitForNotification(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Payload != "ours" {
		t.Errorf("a notification of another test arrived: %s", got.Payload)
	}
}

func TestCloneTime(t *testing.T) {
	New(t) // not counted: makes the template
	const clones = 10
	begin := time.Now()
	for range clones {
		r := &recorder{TB: t}
		New(r)
		r.end()
	}
	t.Logf("a database is made, checked and dropped in %v", (time.Since(begin) / clones).Round(time.Millisecond))
}

func TestAViolationFailsTheTest(t *testing.T) {
	violation := sql.Violation{Rule: "made_up", SagaID: "1", Problem: "was found"}
	r := &recorder{TB: t}
	url := migrated(r, func(context.Context, *pgxpool.Pool) ([]sql.Violation, error) {
		return []sql.Violation{violation}, nil
	})
	r.end()
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], violation.String()) {
		t.Errorf("the test failed with %q, want the violation", r.errors)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err == nil {
		_ = conn.Close(t.Context())
	}
	if gone := new(pgconn.PgError); !errors.As(err, &gone) || gone.Code != "3D000" {
		t.Errorf("connecting to the dropped database: %v, want invalid_catalog_name", err)
	}
}

func TestACheckThatCannotRunFailsTheTest(t *testing.T) {
	r := &recorder{TB: t}
	exec(t, New(r), "DROP SCHEMA pgsagaz CASCADE")
	r.end()
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "check the invariants") {
		t.Errorf("the test failed with %q, want that the check failed", r.errors)
	}
}

func TestAConnectionThatIsKeptFailsTheTest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ", releaseTimeout)
	}
	r := &recorder{TB: t}
	pool := New(r)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.end()
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "still in use") {
		t.Errorf("the test failed with %q, want that a connection is in use", r.errors)
	}
	conn.Release()
	pool.Close()
}

type countingTracer struct{ queries int }

func (c *countingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.queries++
	return ctx
}

func (c *countingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestConfig(t *testing.T) {
	tracer := &countingTracer{}
	pool := Config(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.Tracer = tracer
	})
	query[int](t, pool, "SELECT 1")
	if tracer.queries != 1 || pool.Config().MaxConns != 1 {
		t.Errorf("%d queries traced, MaxConns %d, want 1 and 1", tracer.queries, pool.Config().MaxConns)
	}
}

func TestParallel(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			exec(t, New(t), "CREATE TABLE mine ()")
		})
	}
}

// TestTheTemplateIsMadeOnce is about processes that start at once on one server. They have connections in common with one
// another, so goroutines stand for them.
func TestTheTemplateIsMadeOnce(t *testing.T) {
	server, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	pool := Empty(t) // for a look at the catalog
	name := "pgsagaz_template_once_" + randomHex()
	t.Cleanup(func() { dropTemplate(t, server.url, name) })

	// A process was killed when it had just created it.
	exec(t, pool, "CREATE DATABASE "+quote(name))
	const find = "SELECT oid FROM pg_database WHERE datname = $1 AND datistemplate AND NOT datallowconn"
	halfMade := query[uint32](t, pool, "SELECT oid FROM pg_database WHERE datname = $1", name)

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := ensureTemplate(t.Context(), server.url, name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	made := query[uint32](t, pool, find, name)
	if made == halfMade {
		t.Error("the half made template is used")
	}
	if err := ensureTemplate(t.Context(), server.url, name); err != nil {
		t.Fatal(err)
	}
	if again := query[uint32](t, pool, find, name); again != made {
		t.Error("the template was made twice")
	}
}

func dropTemplate(t *testing.T, url, name string) {
	err := execute(context.Background(), url, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "ALTER DATABASE "+quote(name)+" IS_TEMPLATE false"); err != nil {
			return err
		}
		return dropDatabase(ctx, conn, name)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAGivenServerWins(t *testing.T) {
	private := Server(t)
	server, err := findServer(t.Context(), source{url: private.URL(), image: "no-such-image", bin: "/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.migrateOnce(); err != nil {
		t.Fatal(err)
	}
	if server.url != private.URL() {
		t.Errorf("the server is %s, want %s", server.url, private.URL())
	}
	if err := server.stop(t.Context()); err != nil {
		t.Error(err)
	}
	conn, err := pgx.Connect(t.Context(), private.URL())
	if err != nil {
		t.Fatalf("a given server is not ours to stop: %v", err)
	}
	_ = conn.Close(t.Context())

	if _, err := findServer(t.Context(), source{url: "host=127.0.0.1"}); err == nil {
		t.Error("an address that is no URL was taken")
	}
}

// TestContainer holds that an image that was asked for is used. The other tests then run in it too.
func TestContainer(t *testing.T) {
	from := environment()
	if from.url != "" || from.image == "" {
		t.Skip("PGSAGAZ_TEST_IMAGE is not set, or a server is given")
	}
	pool := New(t)
	server, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	if server.origin != "container "+from.image {
		t.Errorf("the tests run on %s, want the image %s", server.origin, from.image)
	}
	t.Log(query[string](t, pool, "SELECT version()"))
}

// A Postgres that was asked for is used, or else none.
func TestGivenPostgres(t *testing.T) {
	if _, err := findServer(t.Context(), source{bin: "/nowhere"}); err == nil || !strings.Contains(err.Error(), "PGSAGAZ_TEST_POSTGRES") {
		t.Errorf("binaries that are not there: %v", err)
	}
	from := environment()
	if from.url != "" || from.image != "" || from.bin == "" {
		t.Skip("PGSAGAZ_TEST_POSTGRES is not set, or something else is given")
	}
	out, err := osexec.Command(filepath.Join(from.bin, "postgres"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version := query[string](t, New(t), "SHOW server_version")
	if !strings.Contains(string(out), version) {
		t.Errorf("the tests run on %s, want %s", version, out)
	}
	t.Log(version)
}

func TestNoDockerIsAnErrorAndNoPanic(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	if environment().image != "" {
		t.Skip("Docker is in use")
	}
	if _, err := startContainer(t.Context(), DefaultImage); err == nil || !strings.Contains(err.Error(), DefaultImage) {
		t.Errorf("a container without Docker: %v", err)
	}
}
