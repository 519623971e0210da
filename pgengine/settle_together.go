package pgengine

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// settleAlone commits a straight settlement that has nothing of the user's to go with it. settled: its fences held.
func (e *Engine) settleAlone(ctx context.Context, s *settlement) (settled bool, err error) {
	b := &pgx.Batch{} // no BEGIN: what a pipeline holds up to its end is one transaction
	s.queue(b)
	err = answered(e.pool.SendBatch(ctx, b).Close())
	if errors.Is(err, errTurnedBack) || sql.State(err) == notNull {
		return false, nil
	}
	return err == nil, err
}

// size is about how much a settlement sends, in bytes.
func (s *settlement) size() int { return len(s.rec.stored) }

// settleTogether commits plain settlements of taken lanes at once, and says which have gone through. The others have changed nothing: somebody
// holds the saga's lock, or the saga or the lane is not what it was.
func (e *Engine) settleTogether(ctx context.Context, all []*settlement) (settled []bool, err error) {
	settled = make([]bool, len(all))
	if len(all) == 1 {
		settled[0], err = e.settleAlone(ctx, all[0])
		return settled, err
	}
	var (
		sagas, steps, workers, results []string
		lanes, tokens                  []int64
		attempts                       []int
		took                           []float64
		next                           []*string
	)
	at := make(map[int64]int, len(all))
	for i, s := range all {
		at[*s.token] = i
		sagas, lanes, tokens = append(sagas, s.sagaID), append(lanes, *s.laneID), append(tokens, *s.token)
		steps, attempts, workers = append(steps, s.step), append(attempts, s.attempt), append(workers, s.worker)
		results, took, next = append(results, string(s.rec.stored)), append(took, s.rec.took.Seconds()), append(next, s.g.nameOf(s.here))
	}
	rows, err := e.pool.Query(ctx, sql.SettleMany, sagas, lanes, tokens, steps, attempts, workers, results, took, next)
	if err == nil {
		var token int64
		_, err = pgx.ForEachRow(rows, []any{&token}, func() error { settled[at[token]] = true; return nil })
	}
	return settled, excused(err, settled)
}

// nameOf is the step of a task; nil: there is none.
func (g *graph) nameOf(t *task) *string {
	if t == nil {
		return nil
	}
	return &g.nodes[t.node].name
}

// excused drops an error for which Postgres blames the statement. It may be the fault of one of those that went together,
// and has changed nothing: each tries by itself.
func excused(err error, done []bool) error {
	if err = answered(err); err == nil || transient(err) {
		return err
	}
	clear(done)
	return nil
}
