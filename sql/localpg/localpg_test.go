package localpg

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// childEnv makes the test binary start a server, say where it is, and wait to be killed: see TestServerEndsWithItsProcess.
const childEnv = "PGSAGAZ_LOCALPG_CHILD_DIR"

var withDownload = flag.Bool("download", false, "download an embedded Postgres from Maven Central")

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		server, err := Start(context.Background(), &Options{Dir: dir})
		if err != nil {
			panic(err)
		}
		println(server.URL() + " " + server.cluster.dir.path)
		select {}
	}
	os.Exit(m.Run())
}

// openDir is a directory for Options.Dir that the server's account may enter also when the tests run as root.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, opts *Options) *Server {
	t.Helper()
	begin := time.Now()
	server, err := Start(t.Context(), opts)
	if errors.Is(err, ErrNoBinaries) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}

func connect(t *testing.T, server *Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func setting(t *testing.T, conn *pgx.Conn, name string) (value string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestSettings(t *testing.T) {
	server := start(t, &Options{Settings: map[string]string{"application_name": "it's", "max_connections": "60"}})
	conn := connect(t, server)
	want := map[string]string{
		"application_name": "it's", "max_connections": "60", "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
		"fsync": "off", "full_page_writes": "off", "synchronous_commit": "on", "server_encoding": "UTF8", "TimeZone": "UTC",
	}
	if hasLibrary(server.cluster.bin, "pg_stat_statements") {
		want["shared_preload_libraries"] = "pg_stat_statements"
	}
	for name, value := range want {
		if got := setting(t, conn, name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
}

func TestDurable(t *testing.T) {
	conn := connect(t, start(t, &Options{Durable: true}))
	if fsync, max := setting(t, conn, "fsync"), setting(t, conn, "max_connections"); fsync != "on" || max != "200" {
		t.Errorf("fsync is %s and max_connections %s, want on and 200", fsync, max)
	}
}

func TestTheServerAsksForItsPassword(t *testing.T) {
	server := start(t, nil)
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "guess")
	if conn, err := pgx.Connect(t.Context(), u.String()); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password was let in")
	}
}

func TestCrashKeepsWhatWasCommitted(t *testing.T) {
	server := start(t, nil)
	before := server.URL()
	conn := connect(t, server)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n"); err != nil {
		t.Fatal(err)
	}
	if err := server.Crash(); err != nil {
		t.Fatal(err)
	}
	if err := server.Crash(); err != nil {
		t.Errorf("a crash of a crashed server: %v", err)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the session survived the crash")
	}
	begin := time.Now()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("recovered in %v", time.Since(begin).Round(time.Millisecond))
	if server.URL() != before {
		t.Errorf("the URL changed from %s to %s", before, server.URL())
	}
	var rows int
	if err := connect(t, server).QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&rows); err != nil || rows != 1000 {
		t.Errorf("%d rows after the crash (%v), want 1000", rows, err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Errorf("restart of a running server: %v", err)
	}
}

func TestStopRemovesWhatStartMade(t *testing.T) {
	dir := openDir(t)
	server := start(t, &Options{Dir: dir})
	for range 2 { // the second does nothing
		if err := server.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("Stop left %v", left)
	}
	if err := server.Restart(t.Context()); err == nil {
		t.Error("a stopped server was restarted")
	}
}

func TestAFailedStartSaysWhyAndLeavesNothing(t *testing.T) {
	start(t, nil) // skips where there are no binaries
	dir := openDir(t)
	_, err := Start(t.Context(), &Options{Dir: dir, Settings: map[string]string{"work_mem": "blue"}})
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "work_mem"`) {
		t.Errorf("the server's complaint is not in the error: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("the failed start left %v", left)
	}
}

func TestACancelledStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, &Options{Dir: openDir(t)}); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrNoBinaries) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestAPortTakenInBetween(t *testing.T) {
	first := start(t, nil)
	second := start(t, nil)
	if err := second.Crash(); err != nil {
		t.Fatal(err)
	}
	second.cluster.port = first.cluster.port
	if err := second.Restart(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("start on a port that is in use: %v, want errPortTaken", err)
	}
}

func TestNoBinaries(t *testing.T) {
	empty := t.TempDir()
	_, err := Start(t.Context(), &Options{Bin: empty})
	if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), empty) {
		t.Errorf("got %v, want ErrNoBinaries with the directory", err)
	}
}

func TestSortNewestFirst(t *testing.T) {
	dirs := []string{"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/15/bin", "/x/latest/bin", "/usr/pgsql-17/bin"}
	sortNewestFirst(dirs)
	want := []string{"/usr/pgsql-17/bin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/9.6/bin", "/x/latest/bin"}
	if !slices.Equal(dirs, want) {
		t.Errorf("got %v, want %v", dirs, want)
	}
}

// TestServerEndsWithItsProcess kills a process that runs a server: the server has to go too, and the next Start removes its data.
func TestServerEndsWithItsProcess(t *testing.T) {
	start(t, nil) // skips where there are no binaries
	dir := openDir(t)
	child := exec.Command(os.Args[0])
	child.Env = append(child.Environ(), childEnv+"="+dir)
	stderr, err := child.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	address, data, _ := strings.Cut(strings.TrimSpace(line), " ")

	// While the process lives nobody takes its directory away.
	start(t, &Options{Dir: dir})
	if _, err := os.Stat(data); err != nil {
		t.Fatalf("the directory of a live server is gone: %v", err)
	}

	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if endsWithParent {
		begin := time.Now()
		for {
			conn, err := pgx.Connect(t.Context(), address)
			if err != nil {
				break
			}
			_ = conn.Close(t.Context())
			if time.Since(begin) > 10*time.Second {
				t.Fatal("the server outlives its process")
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Logf("the server was gone %v after its process", time.Since(begin).Round(time.Millisecond))
	}
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) { // the dying server may write while it is being removed
		removeAbandoned(dir)
		if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("%s was not removed", data)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, dirPrefix+"*")); len(left) != 1 {
		t.Errorf("%v are left, want the one of the live server", left)
	}
}

// TestDownload is for machines that reach Maven Central: go test -run Download -download.
func TestDownload(t *testing.T) {
	if !*withDownload {
		t.Skip("needs -download and the network")
	}
	cache := openDir(t)
	begin := time.Now()
	bin, err := download(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("downloaded to %s in %v", bin, time.Since(begin).Round(time.Millisecond))
	conn := connect(t, start(t, &Options{Bin: bin}))
	t.Log(setting(t, conn, "server_version"), setting(t, conn, "shared_preload_libraries"))
	if again, err := download(t.Context(), cache); err != nil || again != bin {
		t.Errorf("second download: %s, %v", again, err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "download-*")); len(left) > 0 {
		t.Errorf("the download left %v", left)
	}
}
