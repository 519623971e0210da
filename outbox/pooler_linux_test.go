package outbox_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestThroughAPooler: writers and relay go through PgBouncer in transaction mode, the relay's sessions do not.
func TestThroughAPooler(t *testing.T) {
	t.Parallel()
	direct, err := pgx.ParseConfig(sqltest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(pooler(t, direct))
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // prepared statements are a session's
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w := world{t, pool, memorypub.New(memorypub.Config{})}
	w.until("the pooler is there", func() bool { return pool.Ping(t.Context()) == nil })
	other := mustPool(t, direct.ConnString())
	p := &poison{}
	w.relay(poisoned{w.broker, p}, outbox.Config{Direct: direct, Poll: ages, Retry: quick, MaxPending: 1000, Archive: time.Hour, RotateRows: 1})
	w.until("the relay has joined", func() bool { return len(shares(w)) == 1 })
	later := message("a", 0)
	later.NotBefore, later.Serialize = time.Now().Add(50*time.Millisecond), true
	w.publish(message("a", 1), message("b", 2), later)
	for i := range 20 {
		w.publish(message("a", 3+i))
	}
	w.arrived(23)
	// Another process, without a pooler, wakes this one.
	if err := sql.InTx(t.Context(), other, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, message("c", 1)) }); err != nil {
		t.Fatal(err)
	}
	w.arrived(24)
	w.publish(bad("d"))
	w.until("it dies", func() bool {
		list, err := outbox.DeadLetters(t.Context(), pool, outbox.DeadFilter{})
		return err == nil && len(list) == 1
	})
	if s, err := outbox.GetStatus(t.Context(), pool); err != nil || s.Dead != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// pooler starts PgBouncer in transaction mode before a database, and returns its address.
func pooler(t *testing.T, direct *pgx.ConnConfig) (url string) {
	t.Helper()
	binary, err := exec.LookPath("pgbouncer")
	if err != nil {
		if binary = "/usr/sbin/pgbouncer"; os.Getenv("PATH") != "" {
			if _, err := os.Stat(binary); err != nil {
				brokertest.Missing(t, "no PgBouncer: apt-get install pgbouncer")
			}
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	dir, err := os.MkdirTemp("", "pgsagaz-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, fmt.Appendf(nil, `
[databases]
db = host=%s port=%d dbname=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 100
default_pool_size = 5
ignore_startup_parameters = extra_float_digits
`, direct.Host, direct.Port, direct.Database, direct.User, direct.Password, port), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-q", ini)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 { // it refuses to run as root
		u, err := user.Lookup("nobody")
		if err != nil {
			brokertest.Missing(t, "PgBouncer does not run as root, and there is no user nobody")
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/db?sslmode=disable", direct.User, port)
}
