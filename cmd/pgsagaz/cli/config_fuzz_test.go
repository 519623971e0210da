package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzConfigFile: whatever stands in a file of settings, each line is understood, or is an error that names it. And no error shows what
// may be a secret.
func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		"PGSAGAZ_POOL_SIZE=16\n", "# a comment\n\n PGSAGAZ_LOG_FORMAT = 'json' \r\n", "PGSAGAZ_POOL_SIZE=1\nPGSAGAZ_POOL_SIZE=2", "PGSAGAZ_POL_SIZE=16", "=", "==", "'", "PGSAGAZ_DATABASE_URL=\"", "PGSAGAZ_CONFIG=x",
		"PGSAGAZ_DATABASE_URL=postgres://u:hunter2@h/d", "postgres://u:hunter2@h/d", "\x00=\xff", strings.Repeat("x", 70_000),
	} {
		f.Add(text)
	}
	settings := new(config).settings()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "settings")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		read, wrong := readConfigFile(path, settings)
		for _, err := range wrong {
			if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("%q: %v", text, err)
			}
		}
		lines := 0
		for line := range strings.SplitSeq(text, "\n") {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines++
			}
		}
		set := 0
		for _, s := range settings {
			for _, name := range strings.Fields(s.variables) {
				for _, name := range []string{name, name + "_FILE"} {
					if v := read.look(name); v != "" {
						set++
						if strings.Contains(v, "\n") || !strings.Contains(text, v) {
							t.Fatalf("%q gives %s the value %q", text, name, v)
						}
					}
				}
			}
		}
		if set+len(wrong) > lines {
			t.Fatalf("%q: %d settings from %d lines, and %v", text, set, lines, wrong)
		}
	})
}
