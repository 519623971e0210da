package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/internal/brokertest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// image is the container image to test, which PGSAGAZ_TEST_PROGRAM_IMAGE names: docker build --tag pgsagaz:test .
func image(t *testing.T) string {
	t.Helper()
	tag := os.Getenv("PGSAGAZ_TEST_PROGRAM_IMAGE")
	if tag == "" {
		t.Skip("PGSAGAZ_TEST_PROGRAM_IMAGE names no image; .ci/run makes one and names it")
	}
	return tag
}

// restricted is what k8s/outbox-worker.yaml allows, on this machine's loopback.
var restricted = []string{"run", "--rm", "--pull=never", "--network=host", "--user=1000:1000", "--read-only", "--cap-drop=ALL",
	"--security-opt=no-new-privileges", "--pids-limit=64", "--memory=512m"}

// container is a worker in one.
type container struct {
	*exec.Cmd
	name string
	said bytes.Buffer
	up   func() bool // nil: as soon as the container runs
}

func newContainer(image, url, name string, args ...string) *container {
	run := append(append([]string{}, restricted...), "--name="+name, "-e", "PGSAGAZ_DATABASE_URL", image)
	c := &container{Cmd: exec.Command("docker", append(run, args...)...), name: name}
	c.Env = append(os.Environ(), "PGSAGAZ_DATABASE_URL="+url)
	c.Stdout, c.Stderr = &c.said, &c.said
	return c
}

// Wait is nil after a clean exit, which nothing but SIGTERM leads to.
func (c *container) Wait() error {
	if err := c.Cmd.Wait(); err != nil {
		return errors.New(err.Error() + "\n" + c.said.String())
	}
	return nil
}

func (c *container) signal(name string) error {
	return exec.Command("docker", "kill", "--signal="+name, c.name).Run()
}

// Stop asks it to end, as soon as there is something that can be asked. Before main begins nobody can: there SIGTERM ends
// every Go program with status 2 where it is process 1.
func (c *container) Stop() {
	for range 100 {
		if (c.up == nil || c.up()) && c.signal("TERM") == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (c *container) Kill() error { return c.signal("KILL") }
func (c *container) Pid() int    { return c.Process.Pid } // docker run's: another one than the worker's

// TestContainerRollsOver drains one container after the other by SIGTERM while it drives sagas and publishes, as a rolling
// update does. All accounts add up, nothing was begun by a worker that died, and each parcel was told of once.
func TestContainerRollsOver(t *testing.T) {
	image := image(t)
	pool := sqltest.Empty(t)
	url := pool.Config().ConnString()
	address := brokertest.Redis(t)
	prefix := brokertest.Name("container") + ":"

	out, err := newContainer(image, url, brokertest.Name("pgsagaz"), "migrate", "up", "--wait-for-database", "30s").output()
	if err != nil || !strings.Contains(out, "nothing to do") {
		t.Fatalf("migrate up: %v\n%s", err, out)
	}

	var mu sync.Mutex
	var all []*container
	spawn := func(id string) Process {
		c := newContainer(image, url, id, "worker", "--worker-id", id, "--pool-size", "6", "--grace", "20s", "--broker", address+"?prefix="+prefix, "--log-format", "json")
		c.up = func() bool { // a worker of this name is at work
			var is bool
			err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pgsagaz.worker WHERE id = $1)`, id).Scan(&is)
			return err == nil && is
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, c)
		return c
	}
	group, ctx := errgroup.WithContext(t.Context())
	over, end := context.WithCancel(ctx)
	drained := 0
	group.Go(func() error { // the rolling update: a new one, and the old one goes in the midst of its work
		for n := 1; over.Err() == nil; n++ {
			c := spawn("roll-" + strconv.Itoa(n) + "-" + prefix[:len(prefix)-1]).(*container)
			if err := c.Start(); err != nil {
				return err
			}
			busy := false
			for !busy && over.Err() == nil {
				err := pool.QueryRow(over, `SELECT count(*) >= 3 FROM pgsagaz.lane WHERE worker = $1`, c.name).Scan(&busy)
				if err != nil && over.Err() == nil {
					return err
				}
			}
			if busy {
				drained++
			}
			c.Stop()
			if err := c.Wait(); err != nil {
				return err
			}
		}
		return nil
	})
	o := options()
	o.Orders, o.Workers, o.Spawn = 400, 1, spawn
	rep, err := Run(ctx, url, o)
	end()
	if err := errors.Join(err, group.Wait()); err != nil {
		t.Fatal(err)
	}
	if !rep.OK {
		t.Error(wrong(rep))
	}
	if drained == 0 {
		t.Error("no worker was told to stop while it worked: nothing was tested")
	}
	for _, c := range all {
		if said := c.said.String(); strings.Contains(said, "cutting them off") || strings.Contains(said, "could not hand") {
			t.Errorf("%s was not drained:\n%s", c.name, said)
		}
	}
	var crashes int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.attempt WHERE kind = 'crash'`).Scan(&crashes); err != nil || crashes > 0 {
		t.Errorf("%d steps count a crash (%v)", crashes, err)
	}
	if found, err := sql.Check(t.Context(), pool); err != nil || len(found) > 0 {
		t.Errorf("check: %v %v", found, err)
	}

	// What the last one left waiting, the next one publishes.
	last := spawn("last-" + prefix[:len(prefix)-1]).(*container)
	if err := last.Start(); err != nil {
		t.Fatal(err)
	}
	options, err := redis.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	stream := prefix + "orders.shipped"
	defer client.Del(context.WithoutCancel(t.Context()), stream)
	var shipped int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM demo.parcel WHERE run = $1`, rep.Run).Scan(&shipped); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); client.XLen(t.Context(), stream).Val() < int64(shipped) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	last.Stop()
	if err := last.Wait(); err != nil {
		t.Error(err)
	}
	entries, err := client.XRange(t.Context(), stream, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != shipped {
		t.Errorf("%d events for %d parcels", len(entries), shipped)
	}
	t.Logf("%d orders, %d containers drained of %d, %d events", rep.Orders, drained, len(all), len(entries))
}

// output runs it, and returns all that it said.
func (c *container) output() (string, error) {
	if err := c.Start(); err != nil {
		return "", err
	}
	err := c.Wait()
	return c.said.String(), err
}

func TestContainerIsStamped(t *testing.T) {
	image := image(t)
	c := newContainer(image, "", brokertest.Name("pgsagaz"), "version", "--json")
	out, err := c.output()
	if err != nil || !strings.Contains(out, `"version": "test-`) || !strings.Contains(out, `"commit": "`) {
		t.Errorf("%v in %s", err, out)
	}
	// What is told of the image itself, without the restrictions of a run.
	inspect, err := exec.Command("docker", "inspect", "--format", "{{.Config.User}} {{.Config.StopSignal}} {{json .Config.Entrypoint}} {{json .Config.Cmd}}", image).Output()
	if want := "1000:1000 SIGTERM [\"/pgsagaz\"] [\"worker\"]\n"; err != nil || string(inspect) != want {
		t.Errorf("%v: %q, want %q", err, inspect, want)
	}
}
