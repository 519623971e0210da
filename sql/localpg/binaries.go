package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrNoBinaries is returned by Start when this machine has no Postgres server.
// Client packages are not enough: initdb and postgres are in the server's.
var ErrNoBinaries = errors.New("no Postgres server binaries (initdb and postgres) found")

// installHint completes ErrNoBinaries.
const installHint = "install them (Debian and Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; " +
	"macOS: brew install postgresql@17), or give the address of a running Postgres"

// usualPlaces are where packages put server binaries that they keep out of PATH.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/lib/postgresql[0-9]*/bin",                      // openSUSE
	"/usr/libexec/postgresql[0-9]*",                      // Alpine
	"/usr/pgsql-*/bin",                                   // the Postgres project's own RPMs
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew, Apple silicon
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew, Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

// findBinaries returns the directory of initdb and postgres.
func findBinaries(ctx context.Context, opts *Options) (string, error) {
	if opts.Bin != "" {
		if !hasServer(opts.Bin) {
			return "", fmt.Errorf("%w in %s", ErrNoBinaries, opts.Bin)
		}
		return opts.Bin, nil
	}
	if bin, ok := findInstalled(); ok {
		return bin, nil
	}
	if opts.Download {
		bin, err := download(ctx, opts.CacheDir)
		if err != nil {
			return "", fmt.Errorf("%w in PATH, %s, and the download failed: %w; %s",
				ErrNoBinaries, strings.Join(usualPlaces, ", "), err, installHint)
		}
		return bin, nil
	}
	return "", fmt.Errorf("%w in PATH, %s; %s", ErrNoBinaries, strings.Join(usualPlaces, ", "), installHint)
}

// findInstalled looks through PATH, then the usual places, the newest major first.
func findInstalled() (bin string, ok bool) {
	if postgres, err := exec.LookPath("postgres"); err == nil {
		if postgres, err = filepath.EvalSymlinks(postgres); err == nil && hasServer(filepath.Dir(postgres)) {
			return filepath.Dir(postgres), true
		}
	}
	var found []string
	for _, pattern := range usualPlaces {
		matches, _ := filepath.Glob(pattern) // the patterns are constants and well formed
		found = append(found, matches...)
	}
	sortNewestFirst(found)
	i := slices.IndexFunc(found, hasServer)
	if i < 0 {
		return "", false
	}
	return found[i], true
}

var firstNumber = regexp.MustCompile(`\d+`)

// sortNewestFirst sorts directories by the major version in their path; those without one are last.
func sortNewestFirst(dirs []string) {
	major := func(dir string) int {
		n, _ := strconv.Atoi(firstNumber.FindString(dir))
		return n
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return cmp.Compare(major(b), major(a)) })
}

func hasServer(bin string) bool {
	return isFile(filepath.Join(bin, executable("initdb"))) && isFile(filepath.Join(bin, executable("postgres")))
}

func executable(name string) string {
	if runtime.GOOS == "windows" {
		return name + ".exe"
	}
	return name
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// hasLibrary reports whether the server in bin can load a library such as pg_stat_statements, which is in a package
// of its own on some systems. A library in a place unknown here is merely not used.
func hasLibrary(bin, name string) bool {
	if real, err := filepath.EvalSymlinks(bin); err == nil {
		bin = real
	}
	for _, dir := range []string{"../lib", "../lib/postgresql", "../lib64/pgsql", "../lib/pgsql"} {
		for _, suffix := range []string{".so", ".dylib", ".dll"} {
			if isFile(filepath.Join(bin, dir, name+suffix)) {
				return true
			}
		}
	}
	return false
}
