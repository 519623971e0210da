package sqltest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

// DefaultImage is the container that is run when there is neither a server, nor Postgres on this machine.
const DefaultImage = "postgres:17-alpine"

// startTimeout bounds the start of a server; the image of a container may have to be fetched.
const startTimeout = 5 * time.Minute

// server is what the tests of this process share.
type server struct {
	url    string
	origin string // for people
	stop   func(context.Context) error

	migrateOnce func() error // makes the template, at the first call
}

// shared is the one global of this package: tests know nothing of each other, and a server each would cost a second each.
var shared struct {
	mu      sync.Mutex
	started bool
	server  *server
	err     error // why there is none; tests after the first do not try again
}

func sharedServer() (*server, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.started {
		shared.started = true
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		shared.server, shared.err = findServer(ctx, environment())
	}
	return shared.server, shared.err
}

func stopShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	err := shared.server.stop(ctx)
	shared.server, shared.err = nil, errors.New("sqltest: the server was stopped: a test runs after Main")
	return err
}

// environment is the configuration of this package, which go test has no other way to pass:
//
//	PGSAGAZ_TEST_DATABASE_URL  a server to use, as postgres://user:password@host:port/database; default: none
//	PGSAGAZ_TEST_IMAGE         a container image to run although there is Postgres on this machine; default: none
//	PGSAGAZ_TEST_POSTGRES      the directory of the initdb and postgres to start; default: the newest on this machine
func environment() source {
	return source{os.Getenv("PGSAGAZ_TEST_DATABASE_URL"), os.Getenv("PGSAGAZ_TEST_IMAGE"), os.Getenv("PGSAGAZ_TEST_POSTGRES")}
}

// source is where tests were told to find their server; the first that is not empty counts.
type source struct{ url, image, bin string }

// findServer goes through the list in the package's documentation.
func findServer(ctx context.Context, from source) (*server, error) {
	s, err := chooseServer(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("sqltest: no Postgres to test with: %w", err)
	}
	s.migrateOnce = sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		return ensureTemplate(ctx, s.url, template())
	})
	return s, nil
}

func chooseServer(ctx context.Context, from source) (*server, error) {
	if from.url != "" {
		return givenServer(from.url)
	}
	if from.image != "" {
		return startContainer(ctx, from.image)
	}
	local, localErr := startLocal(ctx, from.bin)
	if localErr == nil {
		return &server{url: local.URL(), origin: "a local Postgres", stop: local.Stop}, nil
	}
	if from.bin != "" {
		return nil, fmt.Errorf("PGSAGAZ_TEST_POSTGRES: %w", localErr)
	}
	container, err := startContainer(ctx, DefaultImage)
	if err != nil {
		return nil, fmt.Errorf("set PGSAGAZ_TEST_DATABASE_URL, install Postgres, or start Docker: %w", errors.Join(localErr, err))
	}
	return container, nil
}

// startLocal starts a Postgres whose data may be lost at any time.
func startLocal(ctx context.Context, bin string) (*localpg.Server, error) {
	return localpg.Start(ctx, &localpg.Options{
		Dir:      memoryDir(),
		Bin:      bin,
		Download: true,
		Settings: map[string]string{"max_wal_size": "256MB"}, // as the WAL may be in memory
	})
}

func givenServer(address string) (*server, error) {
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return nil, errors.New("PGSAGAZ_TEST_DATABASE_URL is not of the form postgres://user:password@host:port/database")
	}
	return &server{url: address, origin: "the Postgres at " + u.Host, stop: func(context.Context) error { return nil }}, nil
}
