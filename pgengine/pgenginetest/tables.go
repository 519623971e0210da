package pgenginetest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// tables are the rows of the user's own tables, as text.
type tables map[string][]string

func readTables(t testing.TB, pool *pgxpool.Pool) tables {
	t.Helper()
	read := func(statement string) []string {
		rows, err := pool.Query(t.Context(), statement)
		if err != nil {
			t.Fatalf("pgenginetest: %v", err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("pgenginetest: %v", err)
		}
		return list
	}
	all := tables{}
	for _, name := range read(sql.KitTables) {
		all[name] = read("SELECT row::text FROM " + name + " AS row ORDER BY 1")
	}
	return all
}

// same says in what these tables differ from those of before; those that grow may have more rows.
func (t tables) same(before tables, grow []string) error {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		gone, more := without(before[name], t[name]), without(t[name], before[name])
		if len(gone) > 0 {
			return fmt.Errorf("table %s lacks the row %s", name, gone[0])
		}
		if len(more) > 0 && !slices.Contains(grow, name) {
			return fmt.Errorf("table %s has the new row %s", name, more[0])
		}
	}
	return nil
}

// asMany says which table has not as many rows as in other.
func (t tables) asMany(other tables) error {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if len(t[name]) != len(other[name]) {
			return fmt.Errorf("table %s has %d rows, undisturbed it has %d", name, len(t[name]), len(other[name]))
		}
	}
	return nil
}

// without is a less b, both of them multisets.
func without(a, b []string) (rest []string) {
	count := map[string]int{}
	for _, s := range b {
		count[s]++
	}
	for _, s := range a {
		if count[s]--; count[s] < 0 {
			rest = append(rest, s)
		}
	}
	return rest
}
