package sql_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	osexec "os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

const migrateURL = "PGSAGAZ_TEST_HELPER_MIGRATE" // tells this binary to be a process that migrates

// helpMigrate is that process: it says that it is ready, and begins when its input ends.
func helpMigrate(url string) (exit int) {
	config, err := pgx.ParseConfig(url)
	if err == nil {
		_, _ = os.Stdout.WriteString("ready\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		err = sql.Migrate(context.Background(), config, &sql.MigrateOptions{Logger: silent})
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

type process struct {
	*osexec.Cmd
	begin  func() // may be called once
	stdout io.ReadCloser
}

// migrating starts a process that is about to migrate.
func migrating(t *testing.T, url string) process {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), migrateURL+"="+url)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("the helper said %q: %v", line, err)
	}
	return process{Cmd: cmd, begin: func() { _ = stdin.Close() }, stdout: stdout}
}

// end waits for the process, whose output must be read before.
func (p process) end() (output string, err error) {
	said, _ := io.ReadAll(p.stdout)
	return string(said), p.Wait()
}

func TestSixProcessesMigrateAtOnce(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	var all []process
	for range 6 {
		all = append(all, migrating(t, pool.Config().ConnString()))
	}
	for _, p := range all {
		p.begin()
	}
	for _, p := range all {
		if output, err := p.end(); err != nil {
			t.Errorf("a process of six: %v\n%s", err, output)
		}
	}
	same(t, "the schema of six", schema(t, pool, "pgsagaz"), schema(t, sqltest.New(t), "pgsagaz"))
}

func TestKillOfTheMigratingProcess(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	want := schema(t, sqltest.New(t), "pgsagaz")
	begun := time.Now()
	if err := migrate(t.Context(), pool, 0); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(begun)
	killed := 0
	for range 6 {
		exec(t, pool, "DROP SCHEMA pgsagaz CASCADE")
		p := migrating(t, pool.Config().ConnString())
		p.begin()
		time.Sleep(rand.N(whole)) // any instant will do
		_ = p.Process.Kill()
		if _, err := p.end(); err != nil {
			killed++
		}
		repaired(t, pool.Config().ConnConfig)
		same(t, "the schema after a kill", schema(t, pool, "pgsagaz"), want)
	}
	t.Logf("killed %d of 6 within %v", killed, whole)
}

// repaired runs a plain migration, which must succeed.
func repaired(t *testing.T, config *pgx.ConnConfig) {
	t.Helper()
	ctx, cancel := contextWithTimeout(t, 30*time.Second)
	defer cancel()
	if err := sql.Migrate(ctx, config, &sql.MigrateOptions{Logger: silent}); err != nil {
		t.Fatalf("the migration after one that was cut off: %v", err)
	}
}

// cut is a network that is cut once the client has sent so many messages, by whatever connections.
type cut struct {
	mu    sync.Mutex
	left  int
	conns []net.Conn
}

var errCut = errors.New("the network is cut")

func (c *cut) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		return nil, errCut
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return cutConn{conn, c}, err
}

type cutConn struct {
	net.Conn
	cut *cut
}

// Write sends a message, as pgx writes one batch of protocol messages at a time; the last one allowed reaches the server, and
// its answer nobody.
func (c cutConn) Write(b []byte) (int, error) {
	c.cut.mu.Lock()
	defer c.cut.mu.Unlock()
	if c.cut.left <= 0 {
		return 0, errCut
	}
	n, err := c.Conn.Write(b)
	if c.cut.left--; c.cut.left == 0 {
		for _, conn := range c.cut.conns {
			_ = conn.Close()
		}
	}
	return n, err
}

var cuts = flag.Int("cuts", 4, "TestAMigrationIsCutOffAtEveryStatement: cut off after each so many messages, from one by chance on; 1: after every one, which takes minutes")

// TestAMigrationIsCutOffAtEveryStatement cuts one run after so many messages, the next after some more, and
// so on until a run gets through. After each the next plain migration succeeds, with the same schema. Down is gone by hardly anybody, and
// less of it must do.
func TestAMigrationIsCutOffAtEveryStatement(t *testing.T) {
	t.Parallel()
	pool := sqltest.Empty(t)
	want := schema(t, sqltest.New(t), "pgsagaz")
	for _, direction := range []struct {
		name          string
		steps, stride int
	}{{"up", 0, *cuts}, {"down", -len(list[int](t, sqltest.New(t), "SELECT version FROM pgsagaz.schema_applied")), 4 * *cuts}} {
		stride, times := direction.stride, 0
		if testing.Short() {
			stride = 17
		}
		first := 1 + rand.IntN(stride)
		for n := first; ; n += stride {
			if direction.steps == 0 {
				exec(t, pool, "DROP SCHEMA IF EXISTS pgsagaz CASCADE")
			}
			network := &cut{left: n}
			config := pool.Config().ConnConfig.Copy()
			config.DialFunc = network.dial
			err := sql.Migrate(t.Context(), config, &sql.MigrateOptions{Steps: direction.steps, Logger: silent})
			repaired(t, pool.Config().ConnConfig)
			if got := schema(t, pool, "pgsagaz"); !slices.Equal(got, want) {
				same(t, direction.name, got, want)
				t.Fatalf("the schema is another after a migration %s was cut off after message %d (%v)", direction.name, n, err)
			}
			if err == nil && network.left > 0 {
				break
			}
			times++
		}
		t.Logf("%s: cut off %d times, from message %d on in steps of %d", direction.name, times, first, stride)
	}
}
