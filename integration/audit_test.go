//go:build unix

package integration

import (
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// audit holds what must be true when all sagas have ended, whatever was done to their workers and to Postgres.
func (w *world) audit() {
	w.t.Helper()
	violations, err := sql.Check(w.t.Context(), w.pool)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range violations {
		w.t.Error(v)
	}
	w.auditRows()
	w.auditEnds()
	w.auditConvoys()
	w.auditFlaky()
}

// auditRows: what a step wrote is there exactly as often as its outcome is recorded, which is once a generation. An Activity's
// late result is recorded without its Commit.
func (w *world) auditRows() {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), `
		WITH written AS (
			SELECT saga, step, direction, count(*) AS n FROM effect GROUP BY 1, 2, 3
		), recorded AS (
			SELECT saga_id AS saga, step, direction::text, count(*) AS n FROM pgsagaz.step
			WHERE outcome = 'done' AND step = ANY ($1) AND (direction = 'undo' OR generation = 1) GROUP BY 1, 2, 3
		)
		SELECT format('saga %s: %s %s is written %s times and recorded %s times', saga, direction, step, coalesce(w.n, 0), coalesce(r.n, 0))
		FROM written w FULL JOIN recorded r USING (saga, step, direction)
		WHERE w.n IS DISTINCT FROM r.n`, writing)
	if err != nil {
		w.t.Fatal(err)
	}
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, line := range wrong[:min(len(wrong), 20)] {
		w.t.Error(line)
	}

	var missing int
	err = w.pool.QueryRow(w.t.Context(), `
		SELECT $1::bigint - (SELECT sum(items) FROM shelf) - (SELECT count(*) FROM pgsagaz.saga WHERE name = 'trial' AND state = 'completed')`,
		shelves*itemsPerShelf).Scan(&missing)
	if err != nil {
		w.t.Fatal(err)
	}
	if missing != 0 {
		w.t.Errorf("%d items were taken from the shelves and neither sold nor put back", missing)
	}
}

// auditEnds: each saga has ended as its order says, and the outside agrees.
func (w *world) auditEnds() {
	w.t.Helper()
	ends := map[string]pgengine.State{}
	for s, err := range w.engine.List(w.t.Context(), pgengine.Filter{Name: "trial"}) {
		if err != nil {
			w.t.Fatal(err)
		}
		ends[s.ID] = s.State
	}
	count := map[pgengine.State]int{}
	for id, order := range w.orders {
		end := ends[id]
		count[end]++
		if want := order.wants(); end != want && !(w.cancelled[id] && end == pgengine.Compensated) {
			s, _ := w.engine.Get(w.t.Context(), id)
			w.t.Errorf("saga %s of %+v is %s, want %s; cause %v", id, order, end, want, s.Cause)
		}
		for _, step := range calling {
			e := w.outside.key(id + "/" + step)
			switch {
			case e.Effective > 1:
				w.t.Errorf("saga %s: %s took effect outside %d times", id, step, e.Effective)
			case end == pgengine.Completed && !e.Standing:
				w.t.Errorf("saga %s is completed, and outside %s is %+v", id, step, e)
			case end == pgengine.Compensated && e.Standing:
				w.t.Errorf("saga %s is compensated, and outside %s stands: %+v", id, step, e)
			}
		}
	}
	w.t.Logf("%d sagas: %v", len(w.orders), count)
	if len(ends) != len(w.orders) {
		w.t.Errorf("there are %d sagas, and %d were started", len(ends), len(w.orders))
	}
}

// auditFlaky: an attempt that failed is on record, unless its saga was turned back first.
func (w *world) auditFlaky() {
	w.t.Helper()
	for id, order := range w.orders {
		if w.cancelled[id] || order.wants() != pgengine.Completed || len(order.Faults) == 0 {
			continue
		}
		s, err := w.engine.Get(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		for step, fault := range order.Faults {
			var want []string
			switch fault {
			case flaky:
				want = []string{"error", "error"}
			case panics:
				want = []string{"panic"}
			}
			got := attempts(s, step)
			got = slices.DeleteFunc(got, func(kind string) bool { return kind == "crash" })
			if len(step) < 5 || step[:5] != "undo " {
				if !slices.Equal(got, want) {
					w.t.Errorf("saga %s: failed attempts at %s are %q, want %q", id, step, got, want)
				}
			}
		}
	}
}
