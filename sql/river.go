package sql

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing/fstest"

	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// riverVersions says which of our migrations brings which version of River's main line. A file a
// version, since Postgres refuses to use a new enum value in the transaction that adds it. Version 1
// only makes River's own record of migrations, which River lets us leave out.
//
// When River brings a new version, give it the next free number here: numbers that have run anywhere
// are never given again. A test holds this list and its hashes against the pinned River.
var riverVersions = []struct {
	migration, river int
	hash             string // of River's up file (sha-256, its first 12 digits), so that a changed one is noticed
}{
	{2, 2, "8915c00d08ed"}, {3, 3, "dedb183bb302"}, {4, 4, "3f7418b0cf78"}, {5, 5, "b760f487152c"}, {6, 6, "3b133f7ce466"},
	{7, 7, "af01339fcb16"}, {8, 8, "678b3b02deb2"},
}

// riverMigrations are River's own files under our numbers, with its schema filled in.
func riverMigrations() fstest.MapFS {
	source := riverpgxv5.New(nil).GetMigrationFS("main")
	found := map[string]string{} // "2.up" -> path
	err := fs.WalkDir(source, ".", func(p string, d fs.DirEntry, err error) error {
		var version int
		var rest string
		if err == nil && !d.IsDir() {
			if n, _ := fmt.Sscanf(path.Base(p), "%03d_%s", &version, &rest); n == 2 {
				direction := "up"
				if strings.HasSuffix(rest, ".down.sql") {
					direction = "down"
				}
				found[fmt.Sprintf("%d.%s", version, direction)] = p
			}
		}
		return err
	})
	if err != nil {
		panic(err) // River's files are embedded
	}
	all := fstest.MapFS{}
	for _, v := range riverVersions {
		for _, direction := range []string{"up", "down"} {
			body, err := fs.ReadFile(source, found[fmt.Sprintf("%d.%s", v.river, direction)])
			if err != nil {
				panic(fmt.Sprintf("River has no migration %d.%s: %v", v.river, direction, err))
			}
			name := fmt.Sprintf("%04d_river_%d.%s.sql", v.migration, v.river, direction)
			all[name] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(string(body), "/* TEMPLATE: schema */", "pgsagaz."))}
		}
	}
	return all
}
