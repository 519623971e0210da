package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

// disk is a filesystem of its own that holds little.
type disk struct {
	t   testing.TB
	dir string
}

func newDisk(t testing.TB, megabytes int) *disk {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgsagaz-disk-")
	if err == nil {
		err = syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", megabytes))
	}
	if errors.Is(err, syscall.EPERM) {
		_ = os.Remove(dir)
		lacks(t, "only root may mount a small disk")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(syscall.Unmount(dir, syscall.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	return &disk{t, dir}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves no page of it free.
func (d *disk) fill() {
	d.t.Helper()
	file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer file.Close()
	for page := make([]byte, 4096); err == nil; {
		_, err = file.Write(page)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Error(err)
	}
}

// free takes away what filled it.
func (d *disk) free() {
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Error(err)
	}
}

// newServerBeside starts a Postgres whose data is on one disk and whose WAL is on another. "" is where there is room.
func newServerBeside(t testing.TB, data, wal string) (server *localpg.Server, log string) {
	t.Helper()
	if data == "" {
		data = roomy(t)
	}
	if wal == "" {
		wal = roomy(t)
	}
	server = newServer(t, &localpg.Options{Dir: data, Settings: map[string]string{"min_wal_size": "32MB", "max_wal_size": "32MB"}})
	if err := server.Crash(); err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(data, "*", "data", "pg_wal")) // the pattern is well formed
	if len(found) != 1 {
		t.Fatal(found)
	}
	moved := filepath.Join(wal, "pg_wal")
	if out, err := exec.Command("mv", found[0], moved).CombinedOutput(); err != nil { // from one filesystem to another
		t.Fatalf("%v: %s", err, out)
	}
	if err := errors.Join(os.Symlink(moved, found[0]), server.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	return server, filepath.Join(filepath.Dir(filepath.Dir(found[0])), "postgres.log")
}

// newServer starts a Postgres as the options say, from the binaries that tests use.
func newServer(t testing.TB, o *localpg.Options) *localpg.Server {
	t.Helper()
	o.Bin, o.Download = os.Getenv("PGSAGAZ_TEST_POSTGRES"), true
	server, err := localpg.Start(t.Context(), o)
	if errors.Is(err, localpg.ErrNoBinaries) {
		lacks(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) }) // an error: it has ended by itself
	return server
}

// roomy is a directory that the server's user may enter.
func roomy(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgsagaz-data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// stuff writes rows until Postgres has no room for more, or is gone.
func (x *torture) stuff() (err error) {
	for err == nil {
		_, err = x.pool.Exec(x.t.Context(), `INSERT INTO stuffing SELECT repeat('x', 1000) FROM generate_series(1, 5000)`)
	}
	return err
}

// unharmed holds what a full disk must not do: no process has ended, and no attempt was counted but of the step that is refused in sagas
// that say so. (On a busy machine a worker may have been taken for dead.)
func (x *torture) unharmed() {
	x.t.Helper()
	if x.deaths > 0 {
		x.t.Errorf("%d processes have ended", x.deaths)
	}
	rows, err := x.pool.Query(x.t.Context(), `SELECT format('%s of saga %s: %s: %s', a.step, a.saga_id, a.kind, a.error)
		FROM pgsagaz.attempt a JOIN pgsagaz.saga s ON s.id = a.saga_id
		WHERE a.kind <> 'crash' AND (a.step <> 'tell' OR NOT (s.input ->> 'Fails')::boolean) LIMIT 10`)
	if err != nil {
		x.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var what string
		if err := rows.Scan(&what); err != nil {
			x.t.Fatal(err)
		}
		x.t.Errorf("an attempt was counted: %s", what)
	}
	if n := x.one(`SELECT count(*) FROM pgsagaz.inbox_failure`); n > 0 {
		x.t.Errorf("%d attempts of consumers were counted", n)
	}
}

// TestDiskFull: the disk under the tables is full for a while. Whatever needs a new page fails, which is most of what sagas, relays and
// consumers do. When there is room again, they go on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	small := newDisk(t, 128)
	server, _ := newServerBeside(t, small.dir, "")
	x := newTortureOn(t, server)
	x.most, x.whole = 250, 6*time.Second
	x.exec(`CREATE TABLE stuffing (text text)`)
	x.own = map[string]func(){"full": func() {
		x.begin(30) // that meet it
		small.fill()
		if err := x.stuff(); sql.State(err) != "53100" {
			t.Errorf("the disk is full: %v", err)
		}
		go func() {
			for begun := time.Now(); time.Since(begun) < 4*time.Second || x.metFullDisk("worker") == 0 && time.Since(begun) < patience; time.Sleep(50 * time.Millisecond) {
			}
			small.free()
		}()
	}}
	x.run([]harm{{at: time.Second, what: "full"}})
	x.settle()
	x.check()
	x.unharmed()
	t.Logf("workers have met the full disk %d times, relays %d times, consumers %d times",
		x.metFullDisk("worker"), x.metFullDisk("relay"), x.metFullDisk("mail")+x.metFullDisk("books"))
	if x.metFullDisk("worker") == 0 {
		t.Error("the disk was full for nobody")
	}
}

// metFullDisk is how often processes have logged that there is no room.
func (x *torture) metFullDisk(role string) (n int) {
	for i, p := range x.processes {
		if x.roles[i].Role == role {
			n += bytes.Count(p.log.bytes(), []byte("SQLSTATE 53100"))
		}
	}
	return n
}

// TestWALDiskFull: the disk under the WAL is full. Postgres ends itself, and does not come up before there is room again. Nothing that was
// acknowledged is lost.
func TestWALDiskFull(t *testing.T) {
	t.Parallel()
	small := newDisk(t, 96)
	server, log := newServerBeside(t, "", small.dir)
	x := newTortureOn(t, server)
	x.most, x.whole = 250, 6*time.Second
	x.exec(`CREATE TABLE stuffing (text text)`)
	x.own = map[string]func(){"full": func() {
		small.fill()
		_ = x.stuff()
		eventually(t, patience, "Postgres has ended itself", func() bool {
			said, err := os.ReadFile(log)
			return err == nil && bytes.Contains(said, []byte("PANIC:")) && bytes.Contains(said, []byte("No space left on device"))
		})
		time.Sleep(2 * time.Second) // it stays away for longer than leases are
		if err := server.Restart(t.Context()); err == nil {
			t.Error("Postgres runs without room for its WAL")
		}
		small.free()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}}
	x.run([]harm{{at: time.Second, what: "full"}})
	x.settle()
	x.check()
	x.unharmed()
}

func (x *torture) exec(statement string) {
	x.t.Helper()
	if _, err := x.pool.Exec(x.t.Context(), statement); err != nil {
		x.t.Fatal(err)
	}
}
