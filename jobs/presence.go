package jobs

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// lockClass is the first half of every worker's session lock: "PGSZ".
const lockClass = 0x5047535A

const beat = 500 * time.Millisecond

// presence shows that a worker lives, in two ways: a session lock, which the server frees the moment
// the process is gone, and a heartbeat, which stops when the process hangs.
type presence struct {
	w        *Worker
	first    chan struct{} // closed, by signedOn, once the worker is on the list
	signedOn sync.Once
	// lost is when the session was last lost, in Unix nanoseconds; 0: never. If the server itself went
	// away, everybody's was: for one lease this worker takes nobody for dead.
	lost atomic.Int64
}

func newPresence(w *Worker) *presence { return &presence{w: w, first: make(chan struct{})} }

// mayReap says whether this worker may take others for dead.
func (p *presence) mayReap() bool {
	lost := p.lost.Load()
	return lost == 0 || time.Since(time.Unix(0, lost)) > p.w.cfg.Lease
}

// run keeps a session until ctx ends.
func (p *presence) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := p.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.lost.Store(time.Now().UnixNano())
		p.w.metrics.sessions.Inc()
		p.w.log.WarnContext(ctx, "lost the session that shows that this worker lives; taking a new one", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

func (p *presence) session(ctx context.Context) error {
	config := p.w.cfg.Direct
	if config == nil {
		config = p.w.engine.Pool().Config().ConnConfig
	}
	config = config.Copy()
	config.Tracer = nil
	config.RuntimeParams["application_name"] = "pgsagaz worker"
	config.ConnectTimeout = 2 * time.Second
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if err := p.signOn(ctx, conn); err != nil {
		return err
	}
	p.w.health.beat()
	p.signedOn.Do(func() { close(p.first) })
	for {
		if err := p.listen(ctx, conn, min(beat, p.w.cfg.Lease/4)); err != nil || ctx.Err() != nil {
			return err
		}
		bounded, cancel := context.WithTimeout(ctx, p.w.cfg.Lease)
		tag, err := conn.Exec(bounded, sql.WorkerBeat, p.w.cfg.ID)
		cancel()
		if err != nil {
			return err
		}
		p.w.health.beat()
		if tag.RowsAffected() == 0 { // taken for dead long ago, and cleared away
			if err := p.signOn(ctx, conn); err != nil {
				return err
			}
		}
	}
}

// listen hears for d that sagas turn back, and stops what they do not wait for. Which ones, the database says, as anybody may send a NOTIFY; and
// what comes within a moment makes it look once.
func (p *presence) listen(ctx context.Context, conn *pgx.Conn, d time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		heard, err := hear(bounded, conn)
		if err != nil || !heard {
			return err
		}
		moment, cancel := context.WithTimeout(bounded, 5*time.Millisecond)
		for err == nil && heard {
			heard, err = hear(moment, conn)
		}
		cancel()
		if err == nil {
			err = p.halt(ctx, conn)
		}
		if err != nil {
			return err
		}
	}
}

// hear waits for a NOTIFY; false: none came before ctx ended.
func hear(ctx context.Context, conn *pgx.Conn) (heard bool, err error) {
	_, err = conn.WaitForNotification(ctx)
	if ctx.Err() != nil {
		return false, nil
	}
	return err == nil, err
}

// halt stops what sagas that turn back do not wait for.
func (p *presence) halt(ctx context.Context, conn *pgx.Conn) error {
	bounded, cancel := context.WithTimeout(ctx, p.w.cfg.Lease)
	defer cancel()
	rows, err := conn.Query(bounded, sql.StrayLanes, p.w.cfg.ID)
	if err != nil {
		return err
	}
	lanes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[mine])
	for _, l := range lanes {
		l.halt(p.w.engine)
	}
	return err
}

func (p *presence) signOn(ctx context.Context, conn *pgx.Conn) error {
	h := fnv.New32a()
	h.Write([]byte(p.w.cfg.ID))
	key := int32(h.Sum32())
	if _, err := conn.Exec(ctx, sql.WorkerSession); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, sql.WorkerLock, int32(lockClass), key); err != nil {
		return fmt.Errorf("session lock: %w", err)
	}
	if !p.w.cfg.NoListen {
		if _, err := conn.Exec(ctx, sql.WorkerListen); err != nil {
			return err
		}
	}
	host, _ := os.Hostname()
	_, err := conn.Exec(ctx, sql.WorkerRegister, p.w.cfg.ID, host, os.Getpid(), key, p.w.cfg.Lease, p.w.engine.Definitions())
	return err
}
