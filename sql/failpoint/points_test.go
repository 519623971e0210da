package failpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestPoints: a crash test walks Points, so that a point which is missing there is never died at, and one
// which is only there would be waited for.
func TestPoints(t *testing.T) {
	t.Parallel()
	listed := map[string]bool{}
	for _, p := range Points() {
		if listed[p] {
			t.Errorf("%s is listed twice", p)
		}
		listed[p] = true
	}
	found := map[string]string{} // point -> where
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
			if !ok || f.Sel.Name != "Hit" {
				return true
			}
			if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
				return true
			}
			where := files.Position(call.Pos()).String()
			literal, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the name of a point must be a literal", where)
				return true
			}
			name, _ := strconv.Unquote(literal.Value)
			if before, twice := found[name]; twice {
				t.Errorf("%s: the point %s is also at %s", where, name, before)
			}
			found[name] = where
			return true
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for name, where := range found {
		if !listed[name] {
			t.Errorf("%s: the point %s is not in Points", where, name)
		}
	}
	for name := range listed {
		if found[name] == "" {
			t.Errorf("Points lists %s, which is nowhere", name)
		}
	}
}
