package integration

import (
	"errors"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pgsagaz/pgsagaz"

// mayImport says of each package of this module which others of it the package may import, outside of its tests. Arrows point
// one way, and nothing imports cmd, this package or a ...test package.
var mayImport = map[string][]string{
	"sql":           {"sql/failpoint"},
	"sql/failpoint": {},
	"sql/localpg":   {},
	"sql/mutant":    {"sql"},
	"sql/sqltest":   {"sql", "sql/failpoint", "sql/localpg", "sql/mutant"},

	"codec": {"sql"},

	"pgengine":              {"codec", "internal/metrics", "internal/terminal", "internal/tracing", "sql", "sql/failpoint"},
	"pgengine/pgenginetest": {"pgengine", "jobs", "sql", "sql/sqltest"},
	"pgengine/sagaui":       {"codec", "pgengine", "sql", "outbox", "inbox"},

	"cloudevents": {},

	"outbox":            {"cloudevents", "codec", "internal/metrics", "internal/tracing", "sql", "sql/failpoint"},
	"outbox/memorypub":  {"outbox"},
	"outbox/outboxtest": {"outbox", "outbox/memorypub", "sql", "sql/sqltest"},
	"outbox/kafkapub":   {"cloudevents", "outbox"},
	"outbox/amqppub":    {"cloudevents", "internal/amqpconn", "outbox"},
	"outbox/redispub":   {"cloudevents", "outbox"},

	"inbox":           {"internal/metrics", "internal/terminal", "internal/tracing", "cloudevents", "codec", "sql", "sql/failpoint"},
	"inbox/inboxtest": {"inbox", "sql", "sql/sqltest"},
	"inbox/memorysub": {"inbox"},
	"inbox/kafkasub":  {"inbox"},
	"inbox/amqpsub":   {"internal/amqpconn", "inbox"},
	"inbox/redissub":  {"cloudevents", "inbox"},

	"jobs": {"internal/metrics", "internal/tracing", "pgengine", "outbox", "inbox", "sql", "sql/failpoint"},

	"cmd/pgsagaz":       {"cmd/pgsagaz/cli", "cmd/pgsagaz/demo", "jobs", "pgengine", "sql", "outbox", "inbox", "sql/localpg"},
	"cmd/pgsagaz/cli":   {"codec", "outbox/amqppub", "outbox/kafkapub", "outbox/memorypub", "outbox/redispub", "cmd/pgsagaz/demo", "cmd/pgsagaz/bench", "jobs", "pgengine", "pgengine/sagaui", "sql", "outbox", "inbox", "sql/localpg"},
	"cmd/pgsagaz/demo":  {"jobs", "pgengine", "sql", "outbox", "inbox", "sql/localpg"},
	"cmd/pgsagaz/bench": {"internal/pgmeter", "jobs", "pgengine", "sql", "outbox", "outbox/memorypub", "inbox", "inbox/memorysub", "sql/localpg"},

	"internal/metrics":    {},
	"internal/terminal":   {},
	"internal/tracing":    {},
	"internal/pgmeter":    {},
	"internal/amqpconn":   {},
	"internal/brokertest": {},
	// The console's own tests, and those with a browser, which are a module of their own, have one world.
	"internal/consoletest": {"jobs", "outbox", "outbox/memorypub", "pgengine", "sql", "sql/sqltest"},
	"integration/browser":  {},

	"integration":            {},
	"integration/interleave": {},
	"integration/monitoring": {},
	"integration/mutants":    {},
}

// forPrograms is what only a command chooses: how it is told what to do, and where its traces go.
var forPrograms = []string{"github.com/spf13/", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters/"}

func inLibraries(p string) bool {
	return !strings.HasPrefix(p, "cmd/") && !strings.HasPrefix(p, "integration")
}

// go/build reads the files itself, so that the test's cached result is thrown away when one of them changes. A file that is
// left out on this system or without a build tag counts too.
func TestImportsPointOneWay(t *testing.T) {
	imports := map[string][]string{}
	err := fs.WalkDir(os.DirFS(".."), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); p != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin") {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(p), "go.mod")); p != "." && err == nil {
			return fs.SkipDir // a module of its own
		}
		context := build.Default
		context.UseAllFiles = true
		found, err := context.ImportDir(filepath.Join("..", filepath.FromSlash(p)), 0)
		switch {
		case errors.As(err, new(*build.NoGoError)):
			return nil
		case errors.As(err, new(*build.MultiplePackageError)):
			t.Errorf("%s: %v", p, err)
			return nil
		case err != nil:
			return err
		}
		imports[p] = nil
		for _, i := range found.Imports {
			if own, ok := strings.CutPrefix(i, module+"/"); ok {
				imports[p] = append(imports[p], own)
			} else if i == module {
				imports[p] = append(imports[p], ".")
			}
			if inLibraries(p) && slices.ContainsFunc(forPrograms, func(prefix string) bool { return strings.HasPrefix(i, prefix) }) {
				t.Errorf("package %s must not import %s, which is for programs", p, i)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(imports) < 5 {
		t.Fatalf("found only %v", imports)
	}
	for _, p := range slices.Sorted(maps.Keys(imports)) {
		allowed, ok := mayImport[p]
		if !ok {
			t.Errorf("package %s is not listed here: say what it may import", p)
			continue
		}
		for _, i := range imports[p] {
			if !slices.Contains(allowed, i) {
				t.Errorf("package %s must not import %s", p, i)
			}
		}
	}
	for p, allowed := range mayImport {
		for _, i := range allowed {
			// sqltest is what the other ...test packages are made of.
			if base := path.Base(i); i == "integration" || strings.HasSuffix(base, "test") && !strings.HasSuffix(path.Base(p), "test") ||
				strings.HasPrefix(i, "cmd/") && !strings.HasPrefix(p, "cmd/") {
				t.Errorf("this list allows %s to import %s, which nothing may", p, i)
			}
		}
	}
}
