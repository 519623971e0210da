package interleave

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// held is a lane that an actor drives, whose call has been answered.
type held struct {
	saga, step string
	lane       int64
	token      int64
}

// newTogether has sagas of two lanes, each of a call and of what comes after it.
func newTogether(t *testing.T, o *outside) *world {
	return newSagas(t, func(enter func()) []pgengine.Definition {
		left, right := o.step("left", func() {}), o.step("right", func() {})
		return order1(left, right, works("after-left", func() {}, left), works("after-right", func() {}, right))
	})
}

// hold begins a saga, and gives its lane at left to A and the one at right to B.
func (w *world) hold(last int64) (saga string, left, right held) {
	w.Helper()
	saga = w.sandbox.Start(order{})
	k, err := w.ticket(saga, "order", "")
	if err != nil {
		w.Fatal(err)
	}
	left = held{saga, "left", k.Lane, last + 1}
	w.exec(sql.LaneBegin, saga, k.Lane, "A", left.token, "left", []string{"right"}, []string{"do"}, []int{1}, []string{"default"}, []int{1})
	if k, err = w.ticket(saga, "order", "right"); err != nil {
		w.Fatal(err)
	}
	right = held{saga, "right", k.Lane, last + 2}
	w.exec(sql.LaneTake, k.Lane, saga, "B", right.token)
	return saga, left, right
}

// settles is an act in which a worker settles what it holds in one commit, in this order. told is what it hears of.
func (w *world) settles(actor int, o *outside, told *[]int64, all ...held) act {
	return act{do: func(ctx context.Context) error {
		var (
			sagas, steps, workers, results []string
			lanes, tokens                  []int64
			attempts                       []int
			took                           []float64
			next                           []string
		)
		for _, h := range all {
			o.note(h.saga, "D")
			sagas, lanes, tokens, steps = append(sagas, h.saga), append(lanes, h.lane), append(tokens, h.token), append(steps, h.step)
			attempts, workers, results = append(attempts, 1), append(workers, string(letters[actor])), append(results, `""`)
			took, next = append(took, 0), append(next, "after-"+h.step)
		}
		rows, err := w.x.actors[actor].pool.Query(ctx, sql.SettleMany, sagas, lanes, tokens, steps, attempts, workers, results, took, next)
		if err == nil {
			*told, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		return err
	}}
}

// settled are the tokens under which steps of these lanes are recorded.
func (w *world) settled(all ...held) (tokens []int64, err error) {
	var of []int64
	for _, h := range all {
		of = append(of, h.token)
	}
	rows, err := w.pool.Query(w.Context(), `SELECT token FROM pgsagaz.step WHERE token = ANY ($1) ORDER BY token`, of)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// asTold: what two have heard is what is recorded.
func (w *world) asTold(told []int64, all ...held) error {
	got, err := w.settled(all...)
	slices.Sort(told)
	if err == nil && !slices.Equal(got, told) {
		err = fmt.Errorf("they were told of %v, and %v are recorded", told, got)
	}
	return err
}

// leave gives up what A and B still hold.
func (w *world) leave() { w.exec(sql.SweepDead, "nobody", time.Second) }

// TestMergesTogether: A and B settle lanes of the same two sagas, in opposite orders, each in one commit, while the one is cancelled. Nobody waits for another
// who waits for him; what they are told is done, is, and nothing else; the saga that turns back is undone, and the other is not.
func TestMergesTogether(t *testing.T) {
	var o outside
	w := newTogether(t, &o)
	token := int64(0)
	w.explore(func() race {
		one, l1, r1 := w.hold(token)
		two, l2, r2 := w.hold(token + 2)
		token += 4
		var toldA, toldB []int64
		oneTurns, twoTurns := w.turnsOnce(one), w.turnsOnce(two)
		return race{
			acts:   []act{w.settles(0, &o, &toldA, l1, l2), w.settles(1, &o, &toldB, r2, r1), w.obey(2, one, "order", cancel(one))},
			always: func() error { return errors.Join(oneTurns(), twoTurns()) },
			end: func() error {
				if err := w.asTold(slices.Concat(toldA, toldB), l1, l2, r1, r2); err != nil {
					return err
				}
				w.leave()
				if _, err := w.rests(one, pgengine.Compensated); err != nil {
					return err
				}
				_, err := w.is(two, pgengine.Completed)
				return err
			},
		}
	})
}

// TestMergesTogetherTakeOver: A settles lanes of two sagas in one commit, which it has lost or is about to lose to the sweeper, B, which takes it for dead; C
// takes one of them over. Who has lost a lane settles nothing of it, and all of the other.
func TestMergesTogetherTakeOver(t *testing.T) {
	var o outside
	w := newTogether(t, &o)
	token := int64(1_000_000)
	w.explore(func() race {
		one, l1, _ := w.hold(token)
		two, l2, _ := w.hold(token + 2)
		token += 4
		var told []int64
		mine := map[int64]bool{l1.token: true, l2.token: true}
		return race{
			acts: []act{
				w.settles(0, &o, &told, l1, l2),
				w.sweep(1),
				{do: func(ctx context.Context) error {
					return w.run(ctx, 2, pgengine.Ticket{SagaID: one, Name: "order", Version: 1, Lane: l1.lane, Step: "left"})
				}},
			},
			always: func() error {
				settled, err := w.settled(l1, l2)
				if err != nil {
					return err
				}
				for _, h := range []held{l1, l2} {
					has := slices.Contains(settled, h.token)
					if has && !mine[h.token] {
						return errors.New("A has settled a step of a lane that it had lost")
					}
					var still bool
					if err := w.pool.QueryRow(w.Context(), `SELECT EXISTS (SELECT FROM pgsagaz.lane WHERE saga_id = $1 AND id = $2 AND token = $3)`, h.saga, h.lane, h.token).Scan(&still); err != nil {
						return err
					}
					mine[h.token] = still || has
				}
				return nil
			},
			end: func() error {
				if err := w.asTold(told, l1, l2); err != nil {
					return err
				}
				w.leave()
				if _, err := w.rests(one, pgengine.Completed); err != nil {
					return err
				}
				_, err := w.is(two, pgengine.Completed)
				return err
			},
		}
	})
}
