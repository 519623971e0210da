package pgengine

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// begun is a saga that begins: where, and what it is.
type begun struct {
	lane   *lane
	here   *task // nil: every first step has a lane of its own
	others lanes

	state   State
	input   []byte
	left    *float64 // seconds up to its deadline; nil: it has none
	isChild bool
	from    origin
}

func (b *begun) fields() []any {
	return []any{&b.state, &b.input, &b.left, &b.isChild, &b.from.age, &b.from.traceparent}
}

// beginAlone begins one saga; pgx.ErrNoRows: it can't be begun.
func (e *Engine) beginAlone(ctx context.Context, q sql.Querier, b *begun) error {
	l, o := b.lane, b.others
	return q.QueryRow(ctx, sql.LaneBegin, l.sagaID, l.id, l.opts.Worker, l.token, l.g.nameOf(b.here),
		o.steps, o.directions, o.generations, o.queues, o.priorities).Scan(b.fields()...)
}

// beginTogether begins sagas of one first step each at once, and says which. The others have not changed: each has to try by itself. So has
// who comes alone.
func (e *Engine) beginTogether(ctx context.Context, all []*begun) ([]bool, error) {
	done := make([]bool, len(all))
	if len(all) == 1 {
		err := e.beginAlone(ctx, e.pool, all[0])
		done[0] = err == nil
		return done, err
	}
	var (
		sagas, workers []string
		lanes, tokens  []int64
		steps          []*string
	)
	at := make(map[int64]int, len(all))
	for i, b := range all {
		l := b.lane
		at[l.token] = i
		sagas, lanes, workers, tokens, steps = append(sagas, l.sagaID), append(lanes, l.id), append(workers, l.opts.Worker), append(tokens, l.token), append(steps, l.g.nameOf(b.here))
	}
	rows, err := e.pool.Query(ctx, sql.LaneBeginMany, sagas, lanes, workers, tokens, steps)
	if err == nil {
		var token int64
		var b begun
		_, err = pgx.ForEachRow(rows, append([]any{&token}, b.fields()...), func() error {
			i := at[token]
			all[i].state, all[i].input, all[i].left, all[i].isChild, all[i].from = b.state, b.input, b.left, b.isChild, b.from
			done[i] = true
			b = begun{}
			return nil
		})
	}
	return done, excused(err, done)
}
