package outbox_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// anySnapshot is one one of a few transactions, as Postgres writes it.
func anySnapshot(r *rand.Rand) string {
	xmin := 10 + r.IntN(5)
	xmax := xmin + r.IntN(16)
	var running []string
	for x := xmin; x < xmax; x++ {
		if r.IntN(3) == 0 {
			running = append(running, fmt.Sprint(x))
		}
	}
	return fmt.Sprintf("%d:%d:%s", xmin, xmax, strings.Join(running, ","))
}

// TestTruncateLooksAtEnough: the look by indexes finds what a look at every row finds, for any rows and cursors.
func TestTruncateLooksAtEnough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	w.exec(`INSERT INTO pgsagaz.outbox_cursor (prev) VALUES ('3:3:'), ('3:3:')`)
	w.exec(`UPDATE pgsagaz.outbox_bucket SET cursor_id = 1 + bucket % 3`)
	emptied := 0
	const rounds = 300
	for range rounds {
		undone := errors.New("undone")
		err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
			exec := func(statement string, args ...any) {
				t.Helper()
				if _, err := tx.Exec(t.Context(), statement, args...); err != nil {
					t.Fatal(err)
				}
			}
			last := r.IntN(80)
			for id := 1; id <= 3; id++ {
				var cur, lastID any = nil, 0
				if r.IntN(3) > 0 {
					cur, lastID = anySnapshot(r), last+r.IntN(10)
				}
				exec(`UPDATE pgsagaz.outbox_cursor SET prev = $2::text::pg_snapshot, cur = $3::text::pg_snapshot, last_id = $4 WHERE id = $1`, id, anySnapshot(r), cur, lastID)
			}
			ids := r.Perm(60)[:2+r.IntN(3)]
			slices.Sort(ids)
			for i, id := range ids {
				txid := 8 + r.IntN(16)
				if i == len(ids)-1 && r.IntN(2) == 0 {
					txid = 3 // the newest row alone does not tell
				}
				exec(`INSERT INTO pgsagaz.outbox (id, slot, txid, bucket, event_id, topic, routing_key, type, payload, headers)
				      VALUES ($1, 0, $2::text::xid8, $3, gen_random_uuid(), 't', 't', 't', '', '{}')`, id+1, fmt.Sprint(txid), r.IntN(256))
			}
			var want, got bool
			if err := tx.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b USING (bucket) JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
				WHERE NOT pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id))`).Scan(&want); err != nil {
				t.Fatal(err)
			}
			if err := tx.QueryRow(t.Context(), `SELECT pgsagaz.outbox_truncate(0::smallint, false)`).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != want {
				rows, _ := tx.Query(t.Context(), `SELECT format('cursor %s: %s %s %s', id, prev, cur, last_id) FROM pgsagaz.outbox_cursor
					UNION ALL SELECT format('row %s of transaction %s, cursor %s', o.id, o.txid, b.cursor_id) FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b USING (bucket)`)
				state, _ := pgx.CollectRows(rows, pgx.RowTo[string])
				t.Fatalf("emptied: %v, and that all is consumed is %v (seed %d)\n%s", got, want, seed, strings.Join(state, "\n"))
			}
			if got {
				emptied++
			}
			return undone
		})
		if !errors.Is(err, undone) {
			t.Fatal(err)
		}
	}
	if emptied < rounds/20 || emptied > rounds*19/20 {
		t.Errorf("%d of %d were emptied: that tells little", emptied, rounds)
	}
}
