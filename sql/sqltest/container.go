package sqltest

import (
	"context"
	"errors"
	"fmt"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

// startContainer runs an image that behaves like the official one. testcontainers-go removes the container after a process
// that was killed, unless TESTCONTAINERS_RYUK_DISABLED is set.
func startContainer(ctx context.Context, image string) (s *server, err error) {
	// Without Docker testcontainers-go panics on some systems and returns errors on others.
	defer func() {
		if failure := recover(); failure != nil {
			s, err = nil, fmt.Errorf("container %s: %v", image, failure)
		}
	}()
	container, err := postgres.Run(ctx, image,
		postgres.WithUsername("postgres"), postgres.WithPassword("postgres"), postgres.WithDatabase("postgres"),
		testcontainers.WithCmdArgs("-c", "max_connections=200", "-c", "full_page_writes=off"), // fsync is off already
		testcontainers.WithLogger(silent{}),
		postgres.BasicWaitStrategies())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("container %s: %w", image, err), testcontainers.TerminateContainer(container))
	}
	url, err := container.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("container %s: %w", image, err), testcontainers.TerminateContainer(container))
	}
	stop := func(ctx context.Context) error { return container.Terminate(ctx) }
	return &server{url: url, origin: "container " + image, stop: stop}, nil
}

// silent is a logger for testcontainers-go, which otherwise tells each test run about the machine's Docker.
type silent struct{}

func (silent) Printf(string, ...any) {}
