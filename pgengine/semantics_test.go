package pgengine_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// stated is a row of a table of docs/semantics.md: somebody may take a saga, or a step, from one state to another.
type stated struct {
	from, to, who, when string
	tests               []string
}

// document is what docs/semantics.md says.
type document struct {
	states       []string // of a saga
	sagas, steps []stated
	tests        map[string]bool // all that it names, anywhere
}

var testName = regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")

// semantics reads docs/semantics.md.
func semantics(t testing.TB) (d document) {
	t.Helper()
	text, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	d.tests = map[string]bool{}
	for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
		d.tests[m[1]] = true
	}
	for section := range strings.SplitSeq(string(text), "\n## ") {
		title, body, _ := strings.Cut(section, "\n")
		for line := range strings.SplitSeq(body, "\n") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") {
				continue
			}
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			switch title {
			case "The states of a saga":
				if cells[0] != "state" {
					d.states = append(d.states, cells[0])
				}
			case "How a saga goes from state to state":
				d.sagas = appendRow(t, d.sagas, line, cells)
			case "How a step goes from state to state":
				d.steps = appendRow(t, d.steps, line, cells)
			}
		}
	}
	if len(d.states) == 0 || len(d.sagas) == 0 || len(d.steps) == 0 {
		t.Fatalf("docs/semantics.md has %d states of a saga, %d ways of it, and %d of a step", len(d.states), len(d.sagas), len(d.steps))
	}
	return d
}

func appendRow(t testing.TB, rows []stated, line string, cells []string) []stated {
	t.Helper()
	if len(cells) != 5 {
		t.Fatalf("docs/semantics.md: not from, to, who, when and test: %s", line)
	}
	if cells[0] == "from" {
		return rows
	}
	row := stated{from: cells[0], to: cells[1], who: cells[2], when: cells[3]}
	for _, m := range testName.FindAllStringSubmatch(cells[4], -1) {
		row.tests = append(row.tests, m[1])
	}
	for _, r := range rows {
		if r.from == row.from && r.to == row.to {
			t.Fatalf("docs/semantics.md has two rows from %s to %s", r.from, r.to)
		}
	}
	if len(row.tests) == 0 || row.who == "" || row.when == "" {
		t.Fatalf("docs/semantics.md: from %s to %s: nobody, never, or without a test", row.from, row.to)
	}
	return append(rows, row)
}

// TestSemanticsNamesTests: each test that the page names is there.
func TestSemanticsNamesTests(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(source), -1) {
			there[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range semantics(t).tests {
		if !there[name] {
			t.Errorf("docs/semantics.md names %s, which is no test", name)
		}
	}
}

// TestSemanticsOfStates tries every pair of states on the database: it allows what the page says, and refuses
// the rest. And every way that the page tells of is gone by TestTransitions.
func TestSemanticsOfStates(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	d := semantics(t)
	if want := []pgengine.State{
		pgengine.Running, pgengine.Failing, pgengine.Compensating, pgengine.Stuck, pgengine.Completed, pgengine.Compensated,
	}; fmt.Sprint(d.states) != fmt.Sprint(want) {
		t.Errorf("the page has the states %q, want %q", d.states, want)
	}
	rows := map[string]stated{}
	for _, row := range d.sagas {
		rows[row.from+" to "+row.to] = row
		if ways[row.from+" to "+row.to] == nil {
			t.Errorf("TestTransitions does not go from %s to %s", row.from, row.to)
		}
	}
	for way := range ways {
		if _, ok := rows[way]; !ok {
			t.Errorf("the page does not say that a saga goes from %s", way)
		}
	}
	ended := func(s string) bool { return pgengine.State(s).Ended() }
	caused := func(s string) *string {
		if s == "running" || s == "completed" {
			return nil
		}
		because := `{"kind": "cancel"}`
		return &because
	}
	for _, from := range d.states {
		for _, to := range d.states {
			for _, child := range []bool{false, true} {
				if from == to {
					continue
				}
				row, stated := rows[from+" to "+to]
				allowed := stated && (child || !strings.Contains(row.who, "its parent"))
				name := fmt.Sprintf("from %s to %s, a child %v", from, to, child)
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), `
						INSERT INTO pgsagaz.saga (id, name, version, state, input, cause, ended_at, parent_id)
						VALUES ('00000000-0000-7000-8000-000000000001', 's', 1, $1, '{}', $2, CASE WHEN $3 THEN now() END,
						        CASE WHEN $4 THEN '00000000-0000-7000-8000-000000000002'::uuid END)`, from, caused(from), ended(from), child)
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return err
					}
					tag, err := tx.Exec(t.Context(), `UPDATE pgsagaz.saga SET state = $1, cause = $2, ended_at = CASE WHEN $3 THEN now() END`, to, caused(to), ended(to))
					switch {
					case allowed && (err != nil || tag.RowsAffected() != 1):
						t.Errorf("%s: %v, %v", name, tag, err)
					case !allowed && sql.State(err) != "PS010":
						t.Errorf("%s is not refused: %v", name, err)
					}
					return errRollback
				})
				if err != errRollback { //nolint:errorlint // as it was returned
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// TestSemanticsOfOutcomes: a step has one outcome in each direction and generation, whoever writes it.
func TestSemanticsOfOutcomes(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		const outcome = `INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, started_at, ended_at)
			VALUES ('00000000-0000-7000-8000-000000000001', 'a', $1, $2, $3, 1, now(), now())`
		for _, direction := range []string{"do", "undo"} {
			for generation := range 2 {
				if _, err := tx.Exec(t.Context(), outcome, direction, generation+1, "done"); err != nil {
					t.Error(err)
				}
			}
		}
		for _, another := range []string{"done", "failed", "skipped", "nothing"} {
			err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), outcome, "do", 2, another)
				return err
			})
			if sql.State(err) != "23505" {
				t.Errorf("a second outcome, %s: %v", another, err)
			}
		}
		_, err := tx.Exec(t.Context(), outcome, "do", 3, "perhaps")
		if sql.State(err) != "22P02" {
			t.Errorf("an unknown outcome: %v", err)
		}
		return errRollback
	})
	if err != errRollback { //nolint:errorlint // as it was returned
		t.Error(err)
	}
}
