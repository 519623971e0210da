package mutant_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql/mutant"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// TestMutantsAreComplete: a bug that the code asks for and nobody lists is never planted, and one that is listed and asked for nowhere
// would be "found" by any test that fails for another reason.
func TestMutantsAreComplete(t *testing.T) {
	t.Parallel()
	asked := map[string]string{} // name -> where
	files := token.NewFileSet()
	if err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || f.Sel.Name != "Mutant" {
				return true
			}
			if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
				return true
			}
			where := files.Position(call.Pos()).String()
			literal, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the name of a mutant must be a literal", where)
				return true
			}
			name, _ := strconv.Unquote(literal.Value)
			asked[name] = where
			return true
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range mutant.All() {
		switch {
		case listed[m.Name]:
			t.Errorf("%s is listed twice", m.Name)
		case m.Plants == "" || len(m.Red) == 0:
			t.Errorf("%s does not say what it plants, or which test finds it", m.Name)
		case len(m.Edits) == 0 && asked[m.Name] == "":
			t.Errorf("%s changes no SQL, and the code does not ask for it", m.Name)
		case len(m.Edits) > 0 && asked[m.Name] != "":
			t.Errorf("%s: %s changes SQL, and the code asks for it", asked[m.Name], m.Name)
		}
		listed[m.Name] = true
	}
	for name, where := range asked {
		if !listed[name] {
			t.Errorf("%s: the mutant %s is not listed", where, name)
		}
	}
	if len(listed) < 20 {
		t.Errorf("only %d", len(listed))
	}
}

var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// TestTheTestsExist: one that was renamed would run nothing, and go test calls that a success.
func TestTheTestsExist(t *testing.T) {
	t.Parallel()
	tests := map[string]map[string]bool{} // of a package
	for _, m := range mutant.All() {
		for _, r := range m.Red {
			if tests[r.Package] == nil {
				tests[r.Package] = map[string]bool{}
				files, err := filepath.Glob(filepath.Join("../..", r.Package, "*_test.go"))
				if err != nil || len(files) == 0 {
					t.Fatalf("%s: no tests in %s, %v", m.Name, r.Package, err)
				}
				for _, f := range files {
					body, err := os.ReadFile(f)
					if err != nil {
						t.Fatal(err)
					}
					for _, found := range testFunction.FindAllSubmatch(body, -1) {
						tests[r.Package][string(found[1])] = true
					}
				}
			}
			if !tests[r.Package][r.Run] {
				t.Errorf("%s: there is no %s", m.Name, r)
			}
		}
	}
}

// TestMutantsCanBePlanted: every fragment is there, and what takes its place is SQL that Postgres takes.
func TestMutantsCanBePlanted(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, m := range mutant.All() {
		for i, e := range m.Edits {
			if e.Statement == nil {
				continue
			}
			changed := *e.Statement // not the variable itself: other tests use it
			m.Edits[i].Statement = &changed
		}
		if err := m.PlantStatements(); err != nil {
			t.Error(err)
		}
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.PlantSchema(t.Context(), conn.Conn()); err != nil {
			t.Error(err)
		} else {
			for _, e := range m.Edits {
				if e.Statement != nil {
					if _, err := conn.Conn().Prepare(t.Context(), "", *e.Statement); err != nil {
						t.Errorf("%s: %v", m.Name, err)
					}
				}
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mutant.Find("nothing.of-the-kind"); err == nil {
		t.Error("a mutant that is not listed is found")
	}
	if err := (mutant.Mutant{Name: "x", Edits: []mutant.Edit{{Statement: new(string), Old: "what is not there"}}}).PlantStatements(); err == nil {
		t.Error("a fragment that is not there is planted")
	}
}

// TestTheTableIsInTheDocument: docs/reliability.md has a row for each bug, and no other.
func TestTheTableIsInTheDocument(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| planted bug | what is done wrong | found by |\n|---|---|---|\n")
	for _, m := range mutant.All() {
		var tests []string
		for _, r := range m.Red {
			tests = append(tests, "`"+r.Run+"`")
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", m.Name, m.Plants, strings.Join(tests, ", "))
	}
	if !strings.Contains(string(page), "\n\n"+table.String()+"\n") {
		t.Errorf("the table of docs/reliability.md is not that of this package, which is\n%s", table.String())
	}
}
