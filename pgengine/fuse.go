package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// fuseSteps is how many TxSteps may share a transaction: their locks are held until its end.
const fuseSteps = 16

// fusion is what a lane has done in a transaction that is still open, while the database sees the lane at the
// first of these steps. If it is not committed, nothing has happened.
type fusion struct {
	home  lane // as it was before the first
	begun time.Time
	steps []fused
}

// fused is a step of a fusion.
type fused struct {
	name         string
	attempt      int
	rec          *record
	began, ended time.Time
}

// fuses says whether the lane may do its step together with the one behind it. A step at which a worker has
// died is done alone, so that the next crash is counted at the right one.
func (l *lane) fuses() bool {
	if !l.g.fuse || l.g.hooks.any() || l.alone || l.crashes > 0 || l.opts.JobPerStep || l.waits != "" || !l.joins(l.at.node) {
		return false
	}
	_, ok := l.behind()
	return ok
}

// joins says whether step i may share a transaction: what follows it depends on the definition alone, and can be
// written by the statements that end a fusion.
func (l *lane) joins(i int) bool {
	n, next := &l.g.nodes[i], l.g.next(i)
	if !n.isTx() || n.when != nil || len(n.gates) > 0 || !next.known || !l.stays(task{node: i}) {
		return false
	}
	if l.taken {
		return true
	}
	// The statements that take the lane of a saga just begun can only move it on, or end an ordinary saga.
	return len(next.tasks) == 0 && !l.isChild || len(next.tasks) == 1 && l.stays(next.tasks[0])
}

// behind is the step that may share the transaction of the one the lane is at.
func (l *lane) behind() (task, bool) {
	tasks := l.g.next(l.at.node).tasks
	if len(tasks) != 1 || !l.joins(tasks[0].node) {
		return task{}, false
	}
	return tasks[0], true
}

// add notes a step that went well, whose result the next may ask for.
func (f *fusion) add(l *lane, rec *record, began time.Time) {
	f.steps = append(f.steps, fused{l.name(), l.attempt + 1, rec, began, time.Now()})
	l.remember(rec)
}

// forget puts the lane back to where the database sees it.
func (f *fusion) forget(l *lane) {
	for _, s := range f.steps {
		delete(l.results, s.name)
		delete(l.doubts, s.name)
	}
	refused, why := l.refused, l.lastRefusal
	*l = f.home
	l.refused, l.lastRefusal, l.alone = refused, why, true
}

// doFused does the lane's TxStep and those behind it in one transaction, as far as they go well. The saga's lock is
// taken at its end only, and the fences of that end hold for all of them. If it does not come through, all of it is
// rolled back, and each step is done alone.
func (e *Engine) doFused(ctx context.Context, l *lane) (bool, error) {
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return false, err
	}
	defer tx.close()
	f := fusion{home: *l, begun: time.Now()}
	for {
		begun := time.Now()
		raw, err := e.callFused(ctx, l, tx, len(f.steps) == 0)
		if err != nil {
			return e.fusedFailed(ctx, tx, l, &f, failure{err: err, begun: begun})
		}
		f.add(l, &record{outcome: "done", result: raw, took: time.Since(begun)}, begun)
		next, ok := l.behind()
		if ok && len(f.steps) < fuseSteps && time.Since(f.begun) < l.opts.Budget/5 && !l.stopping() {
			tx.save()
			l.begin(next)
			continue
		}
		s, _ := l.straight(f.steps[len(f.steps)-1].rec)
		moved, err := e.settleFused(ctx, tx, l, &f, s)
		if err != nil {
			return e.unfuse(tx, l, &f, err, time.Since(f.begun))
		}
		return moved, nil
	}
}

// callFused calls the step in a span of its own, within that of the first, which is there already.
func (e *Engine) callFused(ctx context.Context, l *lane, tx *stepTx, first bool) (json.RawMessage, error) {
	if first {
		return e.callTx(ctx, l, tx)
	}
	ctx, span := e.stepSpan(ctx, l)
	defer span.End()
	return e.callTx(ctx, l, tx)
}

// fusedFailed commits the steps before the one that failed, and then deals with that.
func (e *Engine) fusedFailed(ctx context.Context, tx *stepTx, l *lane, f *fusion, failed failure) (bool, error) {
	took := time.Since(failed.begun)
	switch {
	case ctx.Err() != nil:
		f.forget(l)
		return false, ctx.Err()
	case len(f.steps) == 0:
		return e.notDone(ctx, l, tx, failed.err, failed.begun)
	case tx.lost(failed.err) || transient(failed.err) || errors.As(failed.err, new(*haltedError)):
		return e.unfuse(tx, l, f, failed.err, took)
	}
	if err := tx.takeBack(context.WithoutCancel(ctx)); err != nil {
		return e.unfuse(tx, l, f, err, took)
	}
	s := l.settlement(Running)
	here := l.at
	s.here = &here
	if _, err := e.settleFused(ctx, tx, l, f, s); err != nil {
		return e.unfuse(tx, l, f, err, took)
	}
	tx.close()
	return e.failed(ctx, l, failed)
}

// unfuse has the steps done again, each alone, so that what keeps one from its end is put down to that one.
func (e *Engine) unfuse(tx *stepTx, l *lane, f *fusion, err error, took time.Duration) (bool, error) {
	tx.close()
	f.forget(l)
	if errors.Is(err, errTurnedBack) || errors.Is(err, errLost) {
		return false, err
	}
	if errors.As(err, new(*haltedError)) {
		return false, errTurnedBack
	}
	if err = l.blame(tx, err, took); transient(err) {
		return false, err
	}
	return true, nil // a deferred constraint of the user's, at COMMIT
}

// settleFused records the steps of a fusion and what s says of the lane, and commits.
func (e *Engine) settleFused(ctx context.Context, tx *stepTx, l *lane, f *fusion, s settlement) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	var names, results []string
	var attempts []int
	var began, ended []float64
	now := time.Now() // one for all, so that none seems to have ended before the one that it follows
	for _, step := range f.steps {
		s.events = append(s.events, l.g.event(l.sagaID, task{node: l.g.index[step.name], direction: Do}, step.rec))
		if err := e.keep(ctx, tx, &settlement{g: l.g, key: l.key, rec: step.rec}); err != nil {
			return false, err
		}
		names, results, attempts = append(names, step.name), append(results, string(step.rec.stored)), append(attempts, step.attempt)
		began, ended = append(began, now.Sub(step.began).Seconds()), append(ended, now.Sub(step.ended).Seconds())
	}
	if s.state.Ended() {
		s.events = append(s.events, l.g.passage(l.sagaID, s.state))
	}
	failpoint.Hit("fuse.before")
	fenced := true // until the first statement has gone through; what fails then is the COMMIT
	err := tx.commit(ctx, func(b *pgx.Batch) {
		b.Queue(sql.SettleFused, s.sagaID, s.laneID, s.token, names, attempts, s.worker, results, began, ended, !l.taken).
			Exec(func(pgconn.CommandTag) error { fenced = false; return nil })
		if s.plain() {
			s.queueMove(b)
			return
		}
		s.rec = nil // it is among them
		b.Queue(sql.Settle, s.args()...)
	})
	if fenced && sql.State(err) == notNull {
		return false, errTurnedBack
	}
	if err != nil {
		return false, answered(err)
	}
	failpoint.Hit("fuse.after")
	s.rec = nil
	e.metrics.fused(l.g, f.steps)
	return e.settled(&s, sql.TakeWakes(tx.conn.Conn())), nil
}
