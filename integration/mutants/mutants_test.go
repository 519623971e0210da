//go:build failpoint

package mutants

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/mutant"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

var (
	which  = flag.String("mutants", "", "which to plant: all, or names with commas between them; empty: as many as -budget allows, in an order of the -turn's own")
	budget = flag.Duration("budget", time.Minute, "for how long to begin with another one, where -mutants is empty")
	turn   = flag.Uint64("turn", 0, "which order; 0: that of the hour")
	table  = flag.String("table", "", "a file to write the table to, in Markdown")
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// TestMutants plants bugs. Each must be found by each of its tests, all of which must pass without it.
func TestMutants(t *testing.T) {
	begun := time.Now()
	chosen := choose(t)
	r := runner{T: t, dir: t.TempDir(), binaries: map[string]string{}, sound: map[mutant.Test]time.Duration{}}
	if r.url = os.Getenv("PGSAGAZ_TEST_DATABASE_URL"); r.url == "" {
		r.url = sqltest.Server(t).URL()
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "| mutant | what it plants | the test that goes red | s |\n|---|---|---|---:|\n")
	planted, survived := 0, 0
	for _, m := range chosen {
		if *which == "" && time.Since(begun) > *budget {
			break
		}
		planted++
		for _, test := range m.Red {
			patience := r.passes(test)
			red, how, took := r.run(test, m.Name, patience)
			if !red {
				survived++
				t.Errorf("%s SURVIVES %s:\n%s", m.Name, test, how)
			}
			verdict := map[bool]string{true: "", false: " **survives**"}[red]
			fmt.Fprintf(&out, "| `%s` | %s | `%s`%s | %.1f |\n", m.Name, m.Plants, test, verdict, took.Seconds())
			t.Logf("%-36s %-60s %s in %v", m.Name, test, how, took.Round(10*time.Millisecond))
		}
	}
	t.Logf("%d of %d bugs were planted, %d survive; %v", planted, len(mutant.All()), survived, time.Since(begun).Round(time.Second))
	if *table != "" {
		if err := os.WriteFile(*table, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if planted == 0 {
		t.Error("none was planted")
	}
}

// choose says which bugs to plant, in their order.
func choose(t *testing.T) (chosen []mutant.Mutant) {
	all := mutant.All()
	switch *which {
	case "all":
		return all
	case "":
		at := cmp.Or(*turn, uint64(time.Now().Unix()/3600))
		t.Logf("-turn %d", at)
		for _, i := range rand.New(rand.NewPCG(at, 0)).Perm(len(all)) {
			chosen = append(chosen, all[i])
		}
		return chosen
	}
	for name := range strings.SplitSeq(*which, ",") {
		m, err := mutant.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		chosen = append(chosen, m)
	}
	return chosen
}

// runner runs tests of other packages, on one server.
type runner struct {
	*testing.T
	dir, url string
	binaries map[string]string             // of packages
	sound    map[mutant.Test]time.Duration // tests that pass, and how long they take
}

// passes makes sure that a test passes as the code is, so that it is the bug which turns it red. It returns how long it may
// take with the bug: many times as long as without it.
func (r *runner) passes(test mutant.Test) (patience time.Duration) {
	took, known := r.sound[test]
	if !known {
		var red bool
		var how string
		if red, how, took = r.run(test, "", 5*time.Minute); red {
			r.Fatalf("%s fails, and no bug is planted:\n%s", test, how)
		}
		r.sound[test] = took
	}
	return 10*time.Second + 10*took
}

// run runs a test with a bug in it, and says whether it has failed, and how.
func (r *runner) run(test mutant.Test, bug string, patience time.Duration) (red bool, how string, took time.Duration) {
	ctx, cancel := context.WithTimeout(r.Context(), patience+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.binary(test.Package), "-test.run", "^"+test.Run+"$", "-test.v", "-test.count", "1", "-test.timeout", patience.String())
	cmd.Dir = filepath.Join("../..", test.Package)
	cmd.Env = append(os.Environ(), "PGSAGAZ_TEST_DATABASE_URL="+r.url, "PGSAGAZ_TEST_MUTANT="+bug)
	begun := time.Now()
	output, err := cmd.CombinedOutput()
	took = time.Since(begun)
	var exit *exec.ExitError
	switch {
	case err == nil && !strings.Contains(string(output), "--- PASS: "+test.Run):
		r.Fatalf("%s was not run:\n%s", test, tail(output))
	case err == nil:
		return false, "passes", took
	case !errors.As(err, &exit) || ctx.Err() != nil:
		r.Fatalf("%s with %q: %v\n%s", test, bug, err, tail(output))
	case bytes.Contains(output, []byte("panic: test timed out")):
		return true, fmt.Sprintf("hangs: no end after %v", patience.Round(time.Second)), took
	case exit.ExitCode() == 3:
		r.Fatalf("%s could not be planted:\n%s", bug, tail(output))
	case !failed.Match(output):
		r.Fatalf("%s with %q ends without a verdict: %v\n%s", test, bug, err, tail(output))
	}
	if bug == "" {
		return true, tail(output), took
	}
	return true, "is red", took
}

var failed = regexp.MustCompile(`(?m)^(--- FAIL: |panic: )`)

// binary builds the tests of a package.
func (r *runner) binary(pkg string) string {
	path, ok := r.binaries[pkg]
	if !ok {
		path = filepath.Join(r.dir, strings.ReplaceAll(pkg, "/", "-")+".test")
		cmd := exec.CommandContext(r.Context(), "go", "test", "-c", "-tags", "failpoint", "-o", path, "./"+pkg)
		cmd.Dir = "../.."
		if output, err := cmd.CombinedOutput(); err != nil {
			r.Fatalf("build the tests of %s: %v\n%s", pkg, err, output)
		}
		r.binaries[pkg] = path
	}
	return path
}

// tail is the end of what a test said.
func tail(output []byte) string {
	if n := len(output) - 4000; n > 0 {
		output = output[n:]
	}
	return string(output)
}
