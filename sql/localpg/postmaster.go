package localpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// shutdown is one of the ways Postgres can be told to end. See signal in the files of the operating systems.
type shutdown int

const (
	fast      shutdown = iota // roll back, disconnect, write a checkpoint
	immediate                 // end now, recover at the next start
)

// stopTimeout is how long a fast shutdown may take before it becomes an immediate one.
const stopTimeout = 30 * time.Second

// postmaster is one run of the server's parent process.
type postmaster struct {
	process *os.Process
	exited  chan struct{} // closed when the process is gone
	err     error         // how it ended; to be read after exited
}

// launch starts the process. Its goroutine ends with the process.
func launch(cmd *exec.Cmd) (*postmaster, error) {
	p := &postmaster{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel signals the server when its parent dies, and by parent it means the thread that forked.
		// Hence this thread is kept, and does nothing else, until the server is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		if p.err = cmd.Wait(); p.err == nil {
			p.err = fmt.Errorf("exit status 0")
		}
		close(p.exited)
	}()
	return p, <-started
}

// stop returns when the process is gone. A fast shutdown becomes an immediate one when the context ends or takes too long.
func (p *postmaster) stop(ctx context.Context, how shutdown) error {
	if how == fast {
		ctx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		if err := p.signal(fast); err != nil {
			return err
		}
		select {
		case <-p.exited:
			return nil
		case <-ctx.Done():
		}
	}
	if err := p.signal(immediate); err != nil {
		return err
	}
	<-p.exited // the postmaster kills those of its children that do not go within five seconds
	return nil
}
