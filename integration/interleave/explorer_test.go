package interleave

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// merges are all merges of some acts, as words, and how many of them ended with errors.
func (w *world) merges(begin func() []act) (words []string, errs []error) {
	w.Helper()
	walk := newWalker(7)
	for !walk.root.over {
		merge, err := w.x.run(w.Context(), begin(), walk.choose, nil)
		walk.ran()
		words, errs = append(words, word(merge)), append(errs, err)
	}
	return words, errs
}

// says sends statements as they are.
func (w *world) says(actor int, statements ...string) act {
	return act{do: func(ctx context.Context) error {
		return w.x.actors[actor].pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			for _, s := range statements {
				rows, _ := c.Query(ctx, s) // not Exec, which sends a simple query
				rows.Close()
				if err := rows.Err(); err != nil {
					_, _ = c.Exec(ctx, "ROLLBACK")
					return err
				}
			}
			return nil
		})
	}}
}

// TestExplorer: of actors that have nothing in common every merge is run, once: so many as there are ways to arrange the letters.
func TestExplorer(t *testing.T) {
	w := newWorld(t)
	words, errs := w.merges(func() []act {
		return []act{w.says(0, "SELECT 1", "SELECT 2"), w.says(1, "BEGIN", "SELECT 3", "COMMIT"), w.says(2, "SELECT 4", "SELECT 5")}
	})
	seen := map[string]bool{}
	for i, m := range words {
		if errs[i] != nil || seen[m] || strings.Count(m, "A") != 2 || strings.Count(m, "B") != 2 || strings.Count(m, "C") != 2 {
			t.Errorf("merge %s: %v", m, errs[i])
		}
		seen[m] = true
	}
	if len(words) != 90 { // 6! / (2! 2! 2!)
		t.Errorf("%d merges", len(words))
	}
}

// TestExplorerWaits: who waits for a row has no choice but to wait.
func TestExplorerWaits(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE account (id integer PRIMARY KEY, n integer NOT NULL)`)
	w.exec(`INSERT INTO account VALUES (1, 0), (2, 0)`)
	add := "UPDATE account SET n = n + 1 WHERE id = 1"
	words, errs := w.merges(func() []act {
		return []act{w.says(0, "BEGIN", add, "COMMIT"), w.says(1, add)}
	})
	// In the second and the fourth the first has not committed when the other comes to the row.
	if got := fmt.Sprint(len(words), errs); got != "4 [<nil> <nil> <nil> <nil>]" {
		t.Errorf("%s: %q", got, words)
	}
	for _, m := range words {
		if !strings.Contains("AABB ABAB BBAA BABA", m) {
			t.Errorf("merge %s", m)
		}
	}
	var n int
	if err := w.pool.QueryRow(t.Context(), "SELECT n FROM account WHERE id = 1").Scan(&n); err != nil || n != 8 {
		t.Errorf("%d additions, %v", n, err)
	}

	// Two who wait for each other: Postgres ends one of them, and the merge goes on.
	other := "UPDATE account SET n = n + 1 WHERE id = 2"
	words, errs = w.merges(func() []act {
		return []act{w.says(0, "BEGIN", add, other, "COMMIT"), w.says(1, "BEGIN", other, add, "COMMIT")}
	})
	deadlocks := 0
	for i, err := range errs {
		switch crossed := strings.HasPrefix(words[i], "AB") || strings.HasPrefix(words[i], "BA"); {
		case crossed && sql.State(err) == "40P01":
			deadlocks++
		case crossed || err != nil:
			t.Errorf("merge %s: %v", words[i], err)
		}
	}
	if deadlocks == 0 {
		t.Errorf("no deadlock in %q", words)
	}
}

// TestExplorerFinds: a transaction that reads, thinks and writes loses what another has written meanwhile. It is found, and its merge can be run again.
func TestExplorerFinds(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE account (n integer NOT NULL)`)
	begin := func() []act {
		w.exec(`TRUNCATE account`)
		w.exec(`INSERT INTO account VALUES (0)`)
		var acts []act
		for i := range 2 {
			acts = append(acts, act{do: func(ctx context.Context) error {
				return pgx.BeginFunc(ctx, w.x.actors[i].pool, func(tx pgx.Tx) error {
					var n int
					if err := tx.QueryRow(ctx, "SELECT n FROM account").Scan(&n); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, "UPDATE account SET n = $1", n+1)
					return err
				})
			}})
		}
		return acts
	}
	lost := func(choose func(string) (byte, error)) (merge []step, lost bool) {
		merge, err := w.x.run(t.Context(), begin(), choose, nil)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := w.pool.QueryRow(t.Context(), "SELECT n FROM account").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return merge, n != 2
	}
	walk := newWalker(1)
	var found []string
	n := 0
	for ; !walk.root.over; n++ {
		if merge, lost := lost(walk.choose); lost {
			found = append(found, word(merge))
		}
		walk.ran()
	}
	if len(found) == 0 || len(found) != n-2 { // only one after the other is well
		t.Fatalf("%d of %d merges lose an addition: %q", len(found), n, found)
	}
	for _, m := range found {
		if merge, lost := lost(again(m)); !lost || word(merge) != m {
			t.Errorf("merge %s is not what it was", m)
		}
	}
	if _, err := w.x.run(t.Context(), begin(), again("AX"), nil); err == nil || !strings.Contains(err.Error(), "next could be AB") {
		t.Errorf("a merge that does not exist: %v", err)
	}
}
