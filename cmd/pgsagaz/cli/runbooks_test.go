package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunbooksCommands: each command of this program that a runbook gives exists, with its flags and arguments.
func TestRunbooksCommands(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "docs", "runbooks", "*.md"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	seen := 0
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			line, ok := strings.CutPrefix(strings.TrimSpace(line), "pgsagaz ")
			if !ok {
				continue
			}
			seen++
			args := runbookWords(line)
			root := (&app{}).root()
			cmd, rest, err := root.Find(args)
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil && cmd.Args != nil {
				err = cmd.Args(cmd, cmd.Flags().Args())
			}
			if err != nil || cmd.RunE == nil || cmd.HasSubCommands() {
				t.Errorf("%s: pgsagaz %s: is no command: %v", filepath.Base(file), line, err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands were found", seen)
	}
}

// runbookWords splits a line of shell that quotes with ' alone.
func runbookWords(line string) (all []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}
