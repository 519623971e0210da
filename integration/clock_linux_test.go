package integration

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

// serverClock is the wall clock of a Postgres, which can be set.
type serverClock struct {
	t    testing.TB
	file string
}

// newServerClock compiles what moves a clock. It tells by which environment a server has it.
func newServerClock(t testing.TB) (clock serverClock, env []string) {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		lacks(t, "no C compiler for what sets the clock of a server")
	}
	dir := roomy(t)
	library := filepath.Join(dir, "clock.so")
	if out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, filepath.Join("testdata", "clock.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	clock = serverClock{t, filepath.Join(dir, "ahead")}
	clock.set(0)
	return clock, []string{"LD_PRELOAD=" + library, "PGSAGAZ_CLOCK=" + clock.file}
}

// set sets it so much ahead of the machine's.
func (c serverClock) set(ahead time.Duration) {
	c.t.Helper()
	file, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		defer file.Close()
		_, err = file.Write(binary.NativeEndian.AppendUint64(nil, uint64(ahead/time.Second)))
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// newClockedTorture is a bank on a Postgres whose clock can be set.
func newClockedTorture(t *testing.T) (*torture, serverClock) {
	t.Helper()
	clock, env := newServerClock(t)
	server := newServer(t, &localpg.Options{Env: env})
	return newTortureOn(t, server), clock
}

// TestServerClockJumps: the clock of Postgres jumps ahead by an hour, back again, and to before the server was started. Each time a worker, a relay and
// a consumer die in that moment, and lanes wait for their jobs. Nothing has to wait for the clock to be where it was.
func TestServerClockJumps(t *testing.T) {
	t.Parallel()
	x, clock := newClockedTorture(t)
	x.setBack = true
	x.most, x.whole = 250, 7*time.Second
	jump := func(ahead time.Duration) func() {
		return func() {
			x.begin(30) // their jobs are on their way
			for _, i := range []int{0, 2, 4} {
				x.processes[i].kill()
			}
			clock.set(ahead)
			shows := time.Unix(int64(x.one(`SELECT extract(epoch FROM clock_timestamp())::bigint`)), 0)
			if got := time.Until(shows); got < ahead-10*time.Minute || got > ahead+10*time.Minute {
				t.Errorf("the server's clock is ahead by %v, want %v", got, ahead)
			}
		}
	}
	x.own = map[string]func(){"ahead": jump(time.Hour), "back": jump(0), "far back": jump(-time.Hour)}
	x.run([]harm{
		{at: 1500 * time.Millisecond, what: "ahead"},
		{at: 3500 * time.Millisecond, what: "back"},
		{at: 5500 * time.Millisecond, what: "far back"},
	})
	x.settle()
	x.check()
}

// TestWorkerClocksJump: the clocks of the processes are wrong by an hour, the one way and the other, and jump. Nothing depends on them.
func TestWorkerClocksJump(t *testing.T) {
	t.Parallel()
	if err := setWallClock(0); err != nil {
		t.Skip(err) // another architecture; on amd64 TestSetWallClock fails where it may not be left out
	}
	x := newTortureOf(t, newServer(t, &localpg.Options{}), func(o *workerOptions) { o.Restless = 300 * time.Millisecond })
	x.most, x.whole = 200, 5*time.Second
	x.run([]harm{
		{at: 1 * time.Second, what: "kill", whom: 0},
		{at: 2 * time.Second, what: "term", whom: 1},
		{at: 2500 * time.Millisecond, what: "kill all"},
		{at: 3 * time.Second, what: "crash"},
		{at: 4 * time.Second, what: "term", whom: 0},
	})
	x.settle()
	x.check()
}
