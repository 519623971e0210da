package localpg

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// downloadVersion is the Postgres that is fetched where none is installed.
const downloadVersion = embedded.V17

// download brings an embedded Postgres into the cache, unless it is there, and returns its directory of binaries.
//
// The only way into embedded-postgres is to start its server, which fails for root and deletes directories it takes for
// its own. So it is given a data directory in which no server can start: it fetches and unpacks, fails to start, and this
// package's own launcher takes over. Everything happens in a scratch directory that is renamed when it is whole, so that a
// broken download is never found in the cache.
func download(ctx context.Context, cache string) (bin string, err error) {
	if cache == "" {
		if cache, err = defaultCache(); err != nil {
			return "", err
		}
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil { // open to the user that runs the server for root
		return "", err
	}
	final := filepath.Join(cache, "postgres-"+string(downloadVersion))
	bin = filepath.Join(final, "bin")
	if hasServer(bin) {
		return bin, nil
	}

	// Test binaries run in parallel; one downloads and the others wait.
	unlock, err := lockWait(ctx, filepath.Join(cache, "download.lock"))
	if err != nil {
		return "", fmt.Errorf("wait for another download: %w", err)
	}
	defer unlock()
	if hasServer(bin) {
		return bin, nil
	}

	scratch, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	unpacked, data := filepath.Join(scratch, "unpacked"), filepath.Join(scratch, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", err
	}
	major, _, _ := strings.Cut(string(downloadVersion), ".")
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(major), 0o600); err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	err = embedded.NewDatabase(embedded.DefaultConfig().
		Version(downloadVersion).
		CachePath(scratch).
		RuntimePath(filepath.Join(scratch, "runtime")).
		BinariesPath(unpacked).
		DataPath(data).
		Port(uint32(port)).
		Logger(io.Discard)).Start()
	if err == nil || !strings.HasPrefix(err.Error(), "could not start postgres") {
		return "", fmt.Errorf("fetch embedded Postgres %s: %w", downloadVersion, err)
	}
	if err := os.Rename(unpacked, final); err != nil {
		return "", err
	}
	if err := os.Chmod(final, 0o755); err != nil {
		return "", err
	}
	return bin, nil
}
