package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLogKeys: every attribute that anything here logs has a name from docs/traces-and-logs.md, in every place the same for the
// same thing; a payload has none. And each name that the page gives is used.
func TestLogKeys(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "traces-and-logs.md"))
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| ((?:`[a-z_]+`(?:, )?)+) \\|").FindAllStringSubmatch(string(page), -1) {
		for key := range strings.SplitSeq(m[1], ", ") {
			allowed[strings.Trim(key, "`")] = true
		}
	}
	used := map[string]bool{}
	files := token.NewFileSet()
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != ".." {
			if d != nil && d.IsDir() && err == nil {
				return fs.SkipDir
			}
			return err
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for _, arg := range attributes(call) {
				key, known := literal(arg)
				at := files.Position(arg.Pos())
				switch {
				case !known:
					t.Errorf("%s: a key of a log record is not a literal", at)
				case !allowed[key]:
					t.Errorf("%s: the key %q is not in docs/traces-and-logs.md", at, key)
				}
				used[key] = true
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	used["trace_id"] = true // added by internal/tracing, as an attribute and not as a pair
	for _, key := range slices.Sorted(maps.Keys(allowed)) {
		if !used[key] {
			t.Errorf("docs/traces-and-logs.md names %q, which nothing logs", key)
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d keys were found: does this test still know a log call when it sees one?", len(used))
	}
}

var logMethod = regexp.MustCompile(`^(Debug|Info|Warn|Error)(Context)?$`)

// attributes are the keys of a call that logs, or that makes a logger which has some.
func attributes(call *ast.CallExpr) (keys []ast.Expr) {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !logs(method.X) {
		return nil
	}
	first := 1 // after the message
	switch m := logMethod.FindStringSubmatch(method.Sel.Name); {
	case method.Sel.Name == "With":
		first = 0
	case m == nil:
		return nil
	case m[2] != "":
		first = 2
	}
	for i := first; i < len(call.Args); i += 2 {
		keys = append(keys, call.Args[i])
	}
	return keys
}

// logs says whether an expression is a logger, by its name.
func logs(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "log" || x.Name == "logger" || x.Name == "slog"
	case *ast.SelectorExpr:
		return x.Sel.Name == "log" || x.Sel.Name == "logger" || x.Sel.Name == "Logger"
	case *ast.CallExpr:
		switch f := x.Fun.(type) {
		case *ast.SelectorExpr:
			return f.Sel.Name == "logger" || f.Sel.Name == "Logger" || f.Sel.Name == "Default"
		case *ast.Ident:
			return f.Name == "logger"
		}
	}
	return false
}

func literal(x ast.Expr) (string, bool) {
	l, ok := x.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}
