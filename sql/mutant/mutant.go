// Package mutant is the list of bugs that tests plant, to learn whether they would be found: each is a defect that a system
// like this one has had, or could have. No program imports it, only tests do.
//
// A bug is planted in one of three ways. Where Go decides, the code asks [failpoint.Mutant], which is false in every ordinary build. Where a
// statement decides, a fragment of it is replaced in the variable that holds it. Where a function or a table of the database
// does, it is changed in the test's own database. A fragment that is no longer found is an error, and so is a name that the
// code does not ask for: a bug that could not be planted any more would be one that is always "found".
//
// With the build tag failpoint and PGSAGAZ_TEST_MUTANT=<name>, package sqltest plants the bug before the first test runs:
//
//	PGSAGAZ_TEST_MUTANT=settle.no-token go test -tags failpoint ./pgengine -run TestAZombieBesideItsSuccessor   # has to fail
//
// make mutants does that for all of them.
package mutant

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Mutant is a bug that can be planted.
type Mutant struct {
	Name   string
	Plants string // what is done wrong, as the table in docs/reliability.md says it
	Edits  []Edit // of SQL; none: the code asks failpoint.Mutant(Name)
	Red    []Test // that must fail; each of them alone
}

// Edit is a change of SQL. Either Statement, or Function, or Schema says where.
type Edit struct {
	Statement *string // a variable of package sql
	Function  string  // of the schema pgsagaz
	Old, New  string  // the fragment, wherever it stands in there, and what takes its place
	Schema    string  // a statement to be run in the test's database
}

// Test is a test that exists, narrow enough to be run alone.
type Test struct {
	Package string // a directory of this module
	Run     string // as in go test -run
}

func (t Test) String() string { return t.Package + " " + t.Run }

// All lists every bug there is.
func All() []Mutant { return slices.Concat(engine(), outbox(), inbox()) }

// Find returns the bug of that name.
func Find(name string) (Mutant, error) {
	for _, m := range All() {
		if m.Name == name {
			return m, nil
		}
	}
	return Mutant{}, fmt.Errorf("there is no mutant %q", name)
}

// PlantStatements changes the variables of package sql.
func (m Mutant) PlantStatements() error {
	for _, e := range m.Edits {
		if e.Statement == nil {
			continue
		}
		changed, err := e.apply(*e.Statement)
		if err != nil {
			return fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		*e.Statement = changed
	}
	return nil
}

// PlantSchema changes the database that conn leads to, which must have been migrated.
func (m Mutant) PlantSchema(ctx context.Context, conn *pgx.Conn) error {
	for _, e := range m.Edits {
		statement := e.Schema
		if e.Function != "" {
			var body string
			if err := conn.QueryRow(ctx, `SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'pgsagaz'::regnamespace AND proname = $1`, e.Function).Scan(&body); err != nil {
				return fmt.Errorf("mutant %s: function %s: %w", m.Name, e.Function, err)
			}
			changed, err := e.apply(body)
			if err != nil {
				return fmt.Errorf("mutant %s: function %s: %w", m.Name, e.Function, err)
			}
			statement = changed
		}
		if statement == "" {
			continue
		}
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("mutant %s: %w", m.Name, err)
		}
	}
	return nil
}

func (e Edit) apply(text string) (string, error) {
	if e.Old == "" || !strings.Contains(text, e.Old) {
		return "", fmt.Errorf("the fragment %q is not found in\n%s", e.Old, text)
	}
	return strings.ReplaceAll(text, e.Old, e.New), nil
}

// statement is an edit of one, as most are.
func statement(variable *string, old, new string) Edit {
	return Edit{Statement: variable, Old: old, New: new}
}

func function(name, old, new string) Edit { return Edit{Function: name, Old: old, New: new} }

// red names tests of one package.
func red(pkg string, tests ...string) (list []Test) {
	for _, t := range tests {
		list = append(list, Test{pkg, t})
	}
	return list
}
