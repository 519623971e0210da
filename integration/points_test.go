package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

var hitCall = regexp.MustCompile(`failpoint\.Hit\("([^"]*)"\)`)

// The crash test walks a list; a point that is missing from it would never be crashed at.
func TestEveryFailpointIsListed(t *testing.T) {
	var found []string
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		body, err := os.ReadFile(p)
		for _, m := range hitCall.FindAllSubmatch(body, -1) {
			found = append(found, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listed := failpoint.Points()
	slices.Sort(found)
	slices.Sort(listed)
	if found = slices.Compact(found); !slices.Equal(found, listed) {
		t.Errorf("the points in the source are\n%q, and the list has\n%q", found, listed)
	}
}
