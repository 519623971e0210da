package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby makes another server that follows this one by streaming. From when it returns, a commit here waits until it is on the standby
// too, so that what was acknowledged survives this server; with synchronous_commit off or local it does not wait.
// The standby has the same password and settings, a directory beside this server's, and has to be stopped by itself.
//
// It is made by pg_basebackup. The error is [ErrNoBinaries] where that is not among the binaries, as in a downloaded Postgres.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := time.Now()
	copied, err := s.cluster.copy(ctx)
	if err != nil {
		return nil, fmt.Errorf("make a standby: %w", err)
	}
	standby := &Server{cluster: copied, logger: s.logger}
	if standby.process, err = copied.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a standby: %w", err), copied.remove())
	}
	if err := s.await(ctx, true, `ALTER SYSTEM SET synchronous_standby_names = '*'`); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the standby: %w", err), standby.Stop(context.WithoutCancel(ctx)))
	}
	s.logger.DebugContext(ctx, "made a standby", "port", copied.port, "took", time.Since(begin))
	return standby, nil
}

// InSync waits until the standby of this server has all that was committed here, and commits wait for it.
func (s *Server) InSync(ctx context.Context) error { return s.await(ctx, true) }

// Promote ends a standby's recovery: when it returns the server takes writes, and its commits wait for nobody. The server
// that it followed should have ended before, or there are two truths.
func (s *Server) Promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.await(ctx, false, `SELECT pg_promote()`, `ALTER SYSTEM RESET synchronous_standby_names`) // which was copied, if there was a standby before
}

// await runs statements, reads the settings anew, and waits until there is, or is not, a standby that commits wait for.
func (s *Server) await(ctx context.Context, standby bool, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, statement := range append(statements, `SELECT pg_reload_conf()`) {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	const look = `SELECT current_setting('synchronous_standby_names') <> '' AND EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')`
	for {
		var waits bool
		if err := conn.QueryRow(ctx, look).Scan(&waits); err != nil {
			return err
		}
		if waits == standby {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// copy makes the data of a standby from the running server.
func (c *cluster) copy(ctx context.Context) (_ *cluster, err error) {
	backup := filepath.Join(c.bin, executable("pg_basebackup"))
	if !isFile(backup) {
		return nil, fmt.Errorf("%w: no pg_basebackup in %s", ErrNoBinaries, c.bin)
	}
	n := &cluster{bin: c.bin, account: c.account, env: c.env, password: c.password}
	if n.dir, err = newOwnDir(filepath.Dir(c.dir.path), c.account); err != nil {
		return nil, err
	}
	err = os.Mkdir(n.data(), 0o700)
	if err == nil {
		err = n.account.give(n.data())
	}
	if err == nil {
		cmd := exec.CommandContext(ctx, backup, "--pgdata="+n.data(), "--host=127.0.0.1", "--port="+strconv.Itoa(c.port), "--username=postgres",
			"--checkpoint=fast", "--wal-method=stream", "--no-sync", "--write-recovery-conf")
		n.prepare(cmd)
		cmd.Env = append(cmd.Env, "PGPASSWORD="+c.password)
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %w\n%s", cmd.Path, err, out)
		}
	}
	if err == nil {
		err = n.append(map[string]string{"wal_retrieve_retry_interval": "100ms"}) // after a crash of the primary it is back soon
	}
	if err != nil {
		return nil, errors.Join(err, n.remove())
	}
	return n, nil
}
