package interleave

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// TestMergesClaim: three deliveries of one event come at once, and the handler of the first fails. The event takes effect once.
func TestMergesClaim(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE effect (event uuid NOT NULL)`)
	failure := errors.New("not this time")
	w.explore(func() race {
		event := uuid.Must(uuid.NewV7())
		firsts := make([]bool, len(letters))
		deliver := func(actor int, fails error) act {
			return act{do: func(ctx context.Context) (err error) {
				firsts[actor], err = inbox.Process(ctx, w.x.actors[actor].pool, "consumer", inbox.Message{ID: event.String(), Topic: "t"},
					func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
						if _, err := tx.Exec(ctx, `INSERT INTO effect (event) VALUES ($1)`, event); err != nil {
							return err
						}
						return fails
					})
				if fails != nil && errors.Is(err, fails) {
					err = nil
				}
				return err
			}}
		}
		return race{
			acts: []act{deliver(0, failure), deliver(1, nil), deliver(2, nil)},
			end: func() error {
				var effects int
				err := w.pool.QueryRow(w.Context(), `SELECT count(*) FROM effect WHERE event = $1`, event).Scan(&effects)
				if err == nil && (effects != 1 || firsts[0] || firsts[1] == firsts[2]) {
					err = fmt.Errorf("the event took effect %d times; who was told to be the first: %v", effects, firsts)
				}
				return err
			},
		}
	})
}
