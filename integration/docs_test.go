package integration

import (
	"bytes"
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/cli"
)

// These tests hold the documents against what they tell of: what a document names exists, and what exists is documented.

// documents are the pages for readers, by their path from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "docs/*.md", "docs/*/*.md", "k8s/*.md"} {
		files, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			docs[filepath.ToSlash(strings.TrimPrefix(f, ".."+string(filepath.Separator)))] = string(b)
		}
	}
	for _, page := range []string{"README.md", "CONTRIBUTING.md", "k8s/README.md", "docs/quickstart.md", "docs/architecture.md", "docs/optimistic-sending.md",
		"docs/consumer-inbox.md", "docs/configuration.md", "docs/operations.md", "docs/security.md", "docs/migrating.md", "docs/high-availability.md",
		"docs/managed-postgres.md"} {
		if docs[page] == "" {
			t.Errorf("%s is missing", page)
		}
	}
	return docs
}

var (
	fence  = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
)

// blocks are the fenced blocks of a language.
func blocks(doc, language string) (found []string) {
	for _, m := range fence.FindAllStringSubmatch(doc, -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

// spans are the inline code of a document.
func spans(doc string) (found []string) {
	for _, m := range inline.FindAllStringSubmatch(fence.ReplaceAllString(doc, ""), -1) {
		found = append(found, m[1])
	}
	return found
}

// TestGoInDocuments: a block of Go is a file that a test builds (TestQuickstart), or it stands, line by line, in a file that is compiled.
func TestGoInDocuments(t *testing.T) {
	code := map[string]string{}
	err := fs.WalkDir(os.DirFS(".."), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".go") {
			return err
		}
		b, err := os.ReadFile(filepath.Join("..", p))
		code[p] = bare(strings.ReplaceAll(string(b), "dbsql.", "sql.")) // where database/sql goes by another name than its own
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for page, doc := range documents(t) {
		for _, block := range blocks(doc, "go") {
			if strings.HasPrefix(block, "package ") {
				if _, err := parser.ParseFile(token.NewFileSet(), "", block, parser.AllErrors); err != nil {
					t.Errorf("%s: %v", page, err)
				}
				if page != "docs/quickstart.md" {
					t.Errorf("%s: nobody builds the program there", page)
				}
				continue
			}
			if want := bare(block); !slices.ContainsFunc(slices.Collect(maps.Values(code)), func(c string) bool { return strings.Contains(c, want) }) {
				t.Errorf("%s: no Go file holds these lines, so that nobody knows whether they compile:\n%s", page, block)
			}
		}
	}
}

// bare is code without indentation, comments at the ends of lines, and empty lines.
func bare(code string) string {
	lines := []string{""}
	for line := range strings.Lines(code) {
		line, _, _ = strings.Cut(line, " // ")
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			lines = append(lines, line)
		}
	}
	return strings.Join(append(lines, ""), "\n")
}

// help is what the command line says of a command, with all flags it has.
func help(t *testing.T, args ...string) (text string, ok bool) {
	t.Helper()
	var out, errs bytes.Buffer
	code := cli.Program{Demo: true}.Run(context.Background(), cli.Streams{
		Args: append(slices.Clone(args), "--help"), Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
	})
	return out.String() + errs.String(), code == 0
}

// understood is nil if the command line knows the command and its flags.
func understood(t *testing.T, args []string) error {
	t.Helper()
	for i, a := range args { // saga list|show|start stands for three commands
		if alternatives := strings.Split(a, "|"); len(alternatives) > 1 && !strings.HasPrefix(a, "-") && i < 3 {
			for _, one := range alternatives {
				if err := understood(t, slices.Concat(args[:i], []string{one}, args[i+1:])); err != nil {
					return err
				}
			}
			return nil
		}
	}
	text, ok := help(t, args...)
	if !ok {
		return fmt.Errorf("it says: %s", text)
	}
	_, usage, _ := strings.Cut(text, "Usage:\n  ")
	path := []string{"pgsagaz"}
	for _, a := range args {
		if strings.HasPrefix(a, "-") || !strings.HasPrefix(usage, strings.Join(append(slices.Clone(path), a), " ")) {
			break
		}
		path = append(path, a)
	}
	rest := args[len(path)-1:]
	if strings.Contains(text, "Available Commands:") && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("%s has no command %s", strings.Join(path, " "), rest[0])
	}
	return nil
}

// commands are the lines of the shell in a document, each as words; those in prose too, if they are of the program's own.
func commands(doc string) (found [][]string) {
	for _, block := range blocks(doc, "sh") {
		for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
			if strings.HasPrefix(line, "#") {
				continue
			}
			for _, command := range strings.Split(line, "&&") {
				if w := words(strings.TrimSuffix(strings.TrimSpace(command), "&")); len(w) > 0 {
					found = append(found, w)
				}
			}
		}
	}
	for _, span := range spans(doc) {
		if w := words(span); slices.Contains([]string{"pgsagaz", "make", "kubectl"}, w[0]) && len(w) > 1 || strings.HasPrefix(span, "go run ./") {
			found = append(found, w)
		}
	}
	return found
}

// words splits as a shell does, as far as documents go: blanks and quotes.
func words(line string) (found []string) {
	var quote rune
	word, inWord := "", false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word += string(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			if inWord {
				found = append(found, word)
			}
			word, inWord = "", false
		default:
			word, inWord = word+string(r), true
		}
	}
	if inWord {
		found = append(found, word)
	}
	return found
}

var assignment = regexp.MustCompile(`^[A-Z_]+=`)

// TestCommandsInDocuments: each line of the shell, and each command in prose, is one that is understood.
func TestCommandsInDocuments(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	compose, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	serve, err := os.ReadFile("../cmd/pgsagaz/cli/serve.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for page, doc := range documents(t) {
		for _, w := range commands(doc) {
			bad := func(why string, args ...any) {
				t.Errorf("%s: %s: %s", page, strings.Join(w, " "), fmt.Sprintf(why, args...))
			}
			c := slices.Clone(w)
			for len(c) > 0 && assignment.MatchString(c[0]) {
				c = c[1:]
			}
			if i := slices.Index(c, "/pgsagaz"); i > 0 { // kubectl exec ... --
				c = c[i:]
			}
			if len(c) >= 3 && c[0] == "go" && c[1] == "run" {
				c = c[2:]
			}
			if len(c) == 0 {
				continue
			}
			checked++
			switch c[0] {
			case "pgsagaz", "./shop", "./cmd/pgsagaz", "/pgsagaz":
				if err := understood(t, c[1:]); err != nil {
					bad("%v", err)
				}
			case "make":
				if len(c) != 2 || !strings.Contains(string(makefile), "\n"+c[1]+": ") && !strings.Contains(string(makefile), "\n"+c[1]+": ##") {
					bad("the Makefile has no such target")
				}
			case "go":
				for _, a := range c[2:] {
					if p, ok := strings.CutPrefix(a, "./"); ok {
						if _, err := os.Stat(filepath.Join("..", strings.TrimSuffix(p, "..."))); err != nil {
							bad("%v", err)
						}
					}
				}
			case "kubectl":
				for i, a := range c {
					if i > 0 && c[i-1] == "-f" {
						if _, err := os.Stat(filepath.Join("..", a)); err != nil {
							bad("%v", err)
						}
					}
				}
			case "docker":
				if len(c) > 2 && c[1] == "compose" {
					for _, a := range c[3:] {
						if !strings.HasPrefix(a, "-") && !strings.Contains(string(compose), "\n  "+a+":\n") {
							bad("docker-compose.yml has no service %s", a)
						}
					}
				}
			case "curl": // of the worker's own paths
				if _, p, _ := strings.Cut(c[len(c)-1], ":9464/"); p == "" || !strings.Contains(string(serve), ` /`+p+`"`) && !strings.Contains(string(serve), `"/`+p+`"`) {
					bad("the worker has no such path")
				}
			case "mkdir", "cd", "export", "umask":
			default:
				bad("nobody looks at such commands")
			}
		}
	}
	if checked < 60 {
		t.Errorf("found only %d commands", checked)
	}
}

// TestUnderstood is the test of the test.
func TestUnderstood(t *testing.T) {
	for line, want := range map[string]bool{
		"saga list --state stuck": true, "saga list|show": true, "saga list|shows": false, "saga lists": false, "saga list --states stuck": false,
		"nonsense": false, "worker --broker kafka://...": true, "outbox dead show 17": true, "outbox dead shows 17": false,
	} {
		if err := understood(t, words(line)); (err == nil) != want {
			t.Errorf("%s: %v", line, err)
		}
	}
}

var subcommand = regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`)

// TestCommandsAreDocumented: each command that does something stands in a document.
func TestCommandsAreDocumented(t *testing.T) {
	var all strings.Builder
	for _, doc := range documents(t) {
		all.WriteString(doc)
	}
	n := 0
	var walk func(path ...string)
	walk = func(path ...string) {
		text, _ := help(t, path...)
		_, list, ok := strings.Cut(text, "Available Commands:\n")
		if !ok {
			n++
			if name := "pgsagaz " + strings.Join(path, " "); !strings.Contains(all.String(), name) {
				t.Errorf("%s is nowhere documented; docs/operations.md lists all commands", name)
			}
			return
		}
		list, _, _ = strings.Cut(list, "\n\n")
		for _, m := range subcommand.FindAllStringSubmatch(list, -1) {
			if m[1] != "help" && m[1] != "completion" {
				walk(append(slices.Clone(path), m[1])...)
			}
		}
	}
	walk()
	if n < 30 {
		t.Errorf("found only %d commands", n)
	}
}

// TestVariablesAndFlagsInDocuments: each that is named exists. docs/configuration.md is made from the table, so that it holds all.
func TestVariablesAndFlagsInDocuments(t *testing.T) {
	docs := documents(t)
	table := docs["docs/configuration.md"]
	for _, extra := range []string{"docker-compose.yml", "k8s/*.yaml", "docker/*"} {
		files, err := filepath.Glob(filepath.Join("..", extra))
		if err != nil || len(files) == 0 {
			t.Fatal(extra, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			docs[f] = string(b)
		}
	}
	tests, err := os.ReadFile("../sql/sqltest/server.go")
	if err != nil {
		t.Fatal(err)
	}
	for page, doc := range docs {
		for _, name := range regexp.MustCompile(`PGSAGAZ_[A-Z0-9_]+`).FindAllString(doc, -1) {
			if !strings.Contains(table, "`"+name+"`") && !bytes.Contains(tests, []byte(`"`+name+`"`)) {
				t.Errorf("%s names %s, which nobody reads", page, name)
			}
		}
	}

	known := map[string]bool{}
	var walk func(path ...string)
	walk = func(path ...string) {
		text, _ := help(t, path...)
		for _, f := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(text, -1) {
			known[f] = true
		}
		if _, list, ok := strings.Cut(text, "Available Commands:\n"); ok {
			list, _, _ = strings.Cut(list, "\n\n")
			for _, m := range subcommand.FindAllStringSubmatch(list, -1) {
				walk(append(slices.Clone(path), m[1])...)
			}
		}
	}
	walk()
	for page, doc := range documents(t) {
		for _, span := range spans(doc) {
			if strings.HasPrefix(span, "--") {
				if flag, _, _ := strings.Cut(strings.Fields(span)[0], "="); !known[flag] {
					t.Errorf("%s names %s, which no command has", page, flag)
				}
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	aFile   = regexp.MustCompile(`^[A-Za-z.][\w.*-]*(/[\w.*-]+)*\.(go|md|yaml|yml|sql|sh)$`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestLinksAndFilesInDocuments: each leads somewhere.
func TestLinksAndFilesInDocuments(t *testing.T) {
	docs := documents(t)
	for page, doc := range docs {
		exists := func(p string, from ...string) bool {
			for _, dir := range from {
				if found, _ := filepath.Glob(filepath.Join("..", dir, p)); len(found) > 0 {
					return true
				}
			}
			return false
		}
		for _, m := range link.FindAllStringSubmatch(inline.ReplaceAllString(fence.ReplaceAllString(doc, ""), ""), -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			if to != "" && !exists(to, filepath.Dir(page)) {
				t.Errorf("%s links to %s, which is not there", page, m[1])
			}
			target := doc
			if to != "" {
				target = docs[filepath.ToSlash(filepath.Join(filepath.Dir(page), to))]
			}
			if anchor != "" && !slices.ContainsFunc(heading.FindAllStringSubmatch(target, -1), func(h []string) bool { return slug(h[1]) == anchor }) {
				t.Errorf("%s links to %s, which has no such heading", page, m[1])
			}
		}
		for _, span := range spans(doc) {
			if aFile.MatchString(span) && strings.ContainsAny(span, "/") && !exists(span, ".", filepath.Dir(page)) {
				t.Errorf("%s names the file %s, which is not there", page, span)
			}
		}
	}
}

// slug is the anchor that a heading gets.
func slug(heading string) string {
	return strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}
