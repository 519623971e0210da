package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// errPortTaken is the one failure of a start that another try can help.
var errPortTaken = errors.New("port is taken")

// startOnFreePort starts the server on a port that nobody listens on. Somebody else may take the port between the look and
// the start, so it tries a few.
func (c *cluster) startOnFreePort(ctx context.Context) (process *postmaster, err error) {
	for range 5 {
		if c.port, err = freePort(); err != nil {
			return nil, err
		}
		if process, err = c.start(ctx); !errors.Is(err, errPortTaken) {
			break
		}
	}
	return process, err
}

// freePort chooses below the range from which systems number outgoing connections (32768 and up on Linux), lest one of
// these sits on the port while the server is down between Crash and Restart.
func freePort() (port int, err error) {
	for range 50 {
		port = 15000 + rand.IntN(17000)
		var listener net.Listener
		if listener, err = net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 between 15000 and 32000: %w", err)
}

// start runs the server on c.port and returns when it answers.
func (c *cluster) start(ctx context.Context) (*postmaster, error) {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the server has a descriptor of its own; nothing is written through this one
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}

	cmd := exec.Command(filepath.Join(c.bin, executable("postgres")), "-D", c.data(), "-p", strconv.Itoa(c.port)) // without ctx: it lives on after the start
	c.prepare(cmd)
	cmd.Stdout, cmd.Stderr = log, log
	process, err := launch(cmd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd.Path, err)
	}
	err = c.ready(ctx, process)
	if err == nil {
		return process, nil
	}
	_ = process.stop(context.Background(), immediate) // the first error tells more
	said, _ := io.ReadAll(io.NewSectionReader(log, begin, 1<<20))
	if strings.Contains(string(said), "could not bind") {
		err = errPortTaken
	}
	return nil, fmt.Errorf("%s on port %d: %w; its log:\n%s", cmd.Path, c.port, err, said)
}

// ready waits until the server lets somebody in. The password makes sure that it is this server that answers.
func (c *cluster) ready(ctx context.Context, process *postmaster) error {
	config, err := pgx.ParseConfig(c.url())
	if err != nil {
		return err
	}
	for {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-process.exited:
			return fmt.Errorf("the server ended: %w", process.err)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w (last: %w)", ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
