//go:build failpoint

package sqltest

import (
	"context"
	"fmt"
	"os"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
	"github.com/pgsagaz/pgsagaz/sql/mutant"
)

// notPlanted is what a process ends with that could not plant its bug: not with the status of a test that failed.
const notPlanted = 3

// planted is the bug that PGSAGAZ_TEST_MUTANT names; nil: none. It is there before the first test runs, in this process and in those
// that it starts, as they are the same binary.
var planted = plant()

func plant() *mutant.Mutant {
	name := os.Getenv("PGSAGAZ_TEST_MUTANT")
	if name == "" {
		return nil
	}
	m, err := mutant.Find(name)
	if err == nil {
		err = m.PlantStatements()
	}
	giveUp(err)
	failpoint.Plant(name)
	return &m
}

// plantSchema puts the planted bug into a database that has been migrated.
func plantSchema(ctx context.Context, url string) error {
	if planted != nil {
		giveUp(execute(ctx, url, planted.PlantSchema))
	}
	return nil
}

func giveUp(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sqltest:", err)
		os.Exit(notPlanted)
	}
}
