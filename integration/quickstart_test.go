//go:build unix

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestQuickstart builds the program of docs/quickstart.md, and runs the commands that are written there.
func TestQuickstart(t *testing.T) {
	page, err := os.ReadFile("../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	main := blocks(string(page), "go")
	if len(main) != 1 {
		t.Fatalf("the page has %d programs", len(main))
	}
	// In this module, whose dependencies it needs; `./...` passes directories with such a name by.
	dir, err := os.MkdirTemp(".", "_quickstart")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(main[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	shop := filepath.Join(t.TempDir(), "shop")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", shop, "./"+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	url := sqltest.Empty(t).Config().ConnString()
	command := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), shop, args...)
		cmd.Env = append(os.Environ(), "PGSAGAZ_DATABASE_URL="+url)
		return cmd
	}
	var worker *exec.Cmd
	log, err := os.Create(filepath.Join(t.TempDir(), "worker"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	said := func() string { b, _ := os.ReadFile(log.Name()); return string(b) }
	ran := 0
	for _, block := range blocks(string(page), "sh") {
		for line := range strings.Lines(block) {
			line, background := strings.CutSuffix(strings.TrimSpace(line), " &")
			w := words(line)
			if len(w) == 0 || w[0] != "./shop" {
				continue
			}
			ran++
			if background {
				worker = command(w[1:]...)
				worker.Stderr = log
				if err := worker.Start(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			// Who types is slower than the worker's start: until it has registered its saga, nobody can start one.
			out, err := command(w[1:]...).CombinedOutput()
			for deadline := time.Now().Add(60 * time.Second); err != nil && strings.Contains(string(out), "unknown saga") && time.Now().Before(deadline); {
				time.Sleep(100 * time.Millisecond)
				out, err = command(w[1:]...).CombinedOutput()
			}
			// The saga of somebody whose card is declined does not succeed, and the one who waits for it is told.
			if err != nil && !strings.Contains(line, "bob") {
				t.Fatalf("%s: %v\n%s\nThe worker says:\n%s", line, err, out, said())
			}
		}
	}
	if worker == nil || ran < 8 {
		t.Fatalf("the page has %d commands", ran)
	}

	out, err := command("saga", "list", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Sagas []struct{ Key, State string }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, s := range list.Sagas {
		states[s.Key] = s.State
	}
	if len(list.Sagas) != 2 || states["ann-1"] != "completed" || states["bob-1"] != "compensated" {
		t.Errorf("there are these sagas: %s", out)
	}
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker: %v\n%s", err, said())
	}
}
