package interleave

import (
	"context"
	"fmt"
	"testing"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// TestMergesLimit: A gives the only place of a limit up while B and C come for it. Nobody is there beside another, at no moment.
func TestMergesLimit(t *testing.T) {
	w := newSagas(t, func(enter func()) []pgengine.Definition {
		return order1(pgengine.Activity[order, string]{
			Name: "served", Limit: pgengine.Limit[order]{Concurrency: 1},
			Do: func(context.Context, call) (string, error) { enter(); return "", nil },
		})
	})
	w.explore(func() race {
		var sagas []string
		var acts []act
		for i := range letters {
			sagas = append(sagas, w.sandbox.Start(order{}))
			acts = append(acts, w.drive(i, sagas[i], "order", "", i == 0))
		}
		return race{
			acts: acts,
			always: func() error {
				var inside int
				err := w.pool.QueryRow(w.Context(), `
					SELECT count(*) FROM pgsagaz.limit_place p JOIN pgsagaz.lane l
					ON l.saga_id = p.saga_id AND l.id = p.lane AND l.token = p.token AND l.step = p.step`).Scan(&inside)
				if err == nil && inside > 1 {
					err = fmt.Errorf("%d are in the one place that there is", inside)
				}
				return err
			},
			end: func() error {
				w.sandbox.Run()
				for _, saga := range sagas {
					if _, err := w.is(saga, pgengine.Completed); err != nil {
						return err
					}
				}
				return nil
			},
		}
	})
}
