package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestBenchProfile(t *testing.T) {
	h := newTheatre(t, sqltest.URL(t))
	dir := filepath.Join(t.TempDir(), "made")
	var results []struct{ Ratio float64 }
	h.ok(&results, "bench", "start", "--duration", "100ms", "--rounds", "2", "--concurrency", "2", "--profile", dir)
	for _, name := range []string{"start-2-round1.pprof", "start-2-round2.pprof"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The server of the tests may have the module preloaded, or not; either is said.
	statements, err := os.ReadFile(filepath.Join(dir, "start-2.sql.txt"))
	if text := string(statements); err != nil || !strings.Contains(text, "shared_preload_libraries") && !strings.Contains(text, "pgsagaz.start") {
		t.Errorf("%v: %s", err, text)
	}
	file := filepath.Join(dir, "start-2.sql.txt")
	if r := h.run("bench", "start", "--duration", "100ms", "--rounds", "1", "--concurrency", "2", "--profile", file); r.code != exitFailed || !strings.Contains(r.stderr, file) {
		t.Errorf("a file in the place of the directory: %+v", r)
	}
}
