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

// record is the outcome of the step that a lane is at, to be written with the lane's next claim.
type record struct {
	outcome string // done, failed, nothing
	result  json.RawMessage
	inDoubt bool
	err     string
	took    time.Duration
}

// settlement is one call of pgsagaz.settle.
type settlement struct {
	sagaID  string
	from    []string // the states it may happen in
	lane    *lane    // nil: no claim ends
	at      task     // what rec is about
	step    string
	rec     *record // nil: nothing is recorded
	here    *task   // the lane's next step; nil: the lane ends
	state   State   // "": as it was
	cause   *Cause
	others  lanes
	g       *graph
	worker  string
	attempt int
	token   *int64
	laneID  *int64
}

func (l *lane) settlement(from ...State) settlement {
	s := settlement{sagaID: l.sagaID, lane: l, at: l.at, g: l.g, worker: l.opts.Worker, attempt: l.attempt + 1, token: &l.token, laneID: &l.id}
	s.step = l.name()
	for _, f := range from {
		s.from = append(s.from, string(f))
	}
	return s
}

func (s *settlement) args() []any {
	var outcome, result, failure, nextStep, nextDirection, state, cause *string
	var doubt bool
	var took float64
	var nextGeneration *int
	if s.rec != nil {
		outcome, doubt, took = &s.rec.outcome, s.rec.inDoubt, s.rec.took.Seconds()
		if s.rec.result != nil {
			text := string(s.rec.result)
			result = &text
		}
		failure = optional(s.rec.err)
	}
	if s.here != nil {
		name, direction := s.g.nodes[s.here.node].name, string(s.here.direction)
		nextStep, nextDirection, nextGeneration = &name, &direction, &s.here.generation
	}
	if s.state != "" {
		state = optional(string(s.state))
	}
	if s.cause != nil {
		raw, _ := json.Marshal(s.cause) // strings and a time
		text := string(raw)
		cause = &text
	}
	return []any{
		s.sagaID, s.from, s.laneID, s.token, optional(s.worker), s.step, string(s.at.direction), s.at.generation,
		outcome, doubt, s.attempt, result, failure, took,
		nextStep, nextDirection, nextGeneration, state, cause,
		s.others.steps, s.others.directions, s.others.generations, s.others.queues,
	}
}

// settled does what is due once a settlement has committed.
func (e *Engine) settled(s *settlement, wakes []string) (moved bool) {
	e.wake(append(wakes, s.others.queues...)...)
	if s.state.Ended() {
		e.ends.tell(s.sagaID, nil)
	}
	if s.here != nil {
		s.lane.move(*s.here)
		return true
	}
	return false
}

// settleLimit bounds a settling pipeline, which no caller's context may cut off: a COMMIT that is
// cancelled half-way has an unknown outcome.
const settleLimit = 30 * time.Second

// settle ends the step of lane l in tx, and commits it.
func (e *Engine) settle(ctx context.Context, tx *stepTx, l *lane, rec *record) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	if rec.outcome == "done" && l.at.direction == Do {
		if s, ok := l.straight(rec); ok {
			l.remember(rec) // first: if the COMMIT's answer gets lost, the lane may go on all the same
			fenced := true  // until the first statement has gone through; what fails then is the COMMIT
			err := tx.commit(ctx, func(b *pgx.Batch) {
				s.queue(b).Exec(func(pgconn.CommandTag) error { fenced = false; return nil })
			})
			if fenced && sql.State(err) == notNull {
				return false, errTurnedBack
			}
			if err != nil {
				return false, answered(err)
			}
			return e.settled(&s, sql.TakeWakes(tx.conn.Conn())), nil
		}
	}
	return e.planned(ctx, tx, l, rec)
}

// straight is the settlement of a step that is done, if it depends on nothing but the definition.
func (l *lane) straight(rec *record) (settlement, bool) {
	n := l.g.next(l.at.node)
	if !n.known {
		return settlement{}, false
	}
	s := l.settlement(Running)
	s.rec = rec
	if len(n.tasks) == 0 {
		s.state = Completed
	}
	s.here, s.others = l.divide(n.tasks)
	return s, true
}

// notNull is how settle_next.sql and settle_first.sql say that a fence did not hold.
const notNull = "23502"

// queue adds the cheapest statements for a straight settlement to b, and returns the first: the fences.
func (s *settlement) queue(b *pgx.Batch) *pgx.QueuedQuery {
	if s.others.steps != nil || s.here == nil && s.state == "" {
		return b.Queue(sql.Settle, s.args()...)
	}
	fence := sql.SettleNext
	if !s.lane.taken {
		fence = sql.SettleFirst
	}
	first := b.Queue(fence, s.sagaID, s.laneID, s.token, s.step, s.attempt, s.worker, string(s.rec.result), s.rec.took.Seconds())
	switch {
	case s.here == nil:
		b.Queue(sql.LaneEnd, s.sagaID, s.laneID)
		b.Queue(sql.SagaComplete, s.sagaID)
	case !s.lane.taken:
		b.Queue(sql.LaneMoveFirst, s.sagaID, s.laneID, s.g.nodes[s.here.node].name, s.worker, s.token)
	default:
		b.Queue(sql.LaneMove, s.sagaID, s.laneID, s.g.nodes[s.here.node].name)
	}
	return first
}

// remember keeps what became of the lane's step for the calls that follow in this lane.
func (l *lane) remember(rec *record) {
	if l.at.direction != Do {
		return
	}
	if l.doubts == nil {
		l.doubts = map[string]bool{}
	}
	l.doubts[l.name()] = rec.inDoubt
	if rec.outcome == "done" {
		l.results[l.name()] = rec.result
	}
}

// settleActivity records an Activity's result, with what its Commit writes.
func (e *Engine) settleActivity(ctx context.Context, l *lane, rec *record,
	commit func(context.Context, pgx.Tx, *call, json.RawMessage) error,
) (bool, error) {
	l.remember(rec)
	if commit == nil {
		if s, ok := l.straight(rec); ok {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
			defer cancel()
			b := &pgx.Batch{} // no BEGIN: what a pipeline holds up to its end is one transaction
			s.queue(b)
			err := e.pool.SendBatch(ctx, b).Close()
			if err == nil {
				return e.settled(&s, nil), nil
			}
			if err = answered(err); !errors.Is(err, errTurnedBack) && sql.State(err) != notNull {
				return false, err
			}
			// The saga turns back. What was done is recorded all the same, and will be undone.
		}
	}
	return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		if commit != nil {
			if err := e.local(ctx, tx, l, rec.result, commit); err != nil {
				return false, err
			}
		}
		return e.planned(ctx, tx, l, rec)
	})
}

// settleUndone records that an Activity is undone, with what its UndoCommit writes.
func (e *Engine) settleUndone(ctx context.Context, l *lane, rec *record, raw json.RawMessage,
	commit func(context.Context, pgx.Tx, *call, json.RawMessage) error,
) (bool, error) {
	return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		if commit != nil {
			if err := e.local(ctx, tx, l, raw, commit); err != nil {
				return false, err
			}
		}
		return e.planned(ctx, tx, l, rec)
	})
}

// local runs an Activity's Commit or UndoCommit in tx.
func (e *Engine) local(ctx context.Context, tx *stepTx, l *lane, raw json.RawMessage,
	commit func(context.Context, pgx.Tx, *call, json.RawMessage) error,
) error {
	err := e.attempt(ctx, l, func(ctx context.Context) error {
		return commit(e.inStep(ctx, l), tx, l.call(), raw)
	})
	if err == nil {
		err = tx.owned()
	}
	if err != nil && tx.lost(err) {
		return &unavailableError{err}
	}
	return err
}

// inTx runs f in a transaction that f commits.
func (e *Engine) inTx(ctx context.Context, l *lane, f func(context.Context, *stepTx) (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit+l.node().timeout)
	defer cancel()
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return false, err
	}
	defer tx.close()
	return f(ctx, tx)
}

// turnBack ends a lane at a step that must not go on, since its saga turns back. A TxStep has had no
// effect; an Activity in doubt is recorded as such, and undone as such.
func (e *Engine) turnBack(ctx context.Context, l *lane) (bool, error) {
	var rec *record
	if !l.node().isTx() && l.inDoubt && l.at.direction == Do {
		rec = &record{outcome: "failed", inDoubt: true, err: l.lastErr}
		if rec.err == "" {
			rec.err = "the call was cut off"
		}
	}
	return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		return e.planned(ctx, tx, l, rec)
	})
}

// planned ends the step of lane l in tx by what plan says, and commits it.
func (e *Engine) planned(ctx context.Context, tx *stepTx, l *lane, rec *record) (bool, error) {
	snap, err := readLocked(ctx, tx, l.g, l.sagaID)
	if err != nil {
		return false, err
	}
	if !snap.removeLane(l) {
		return false, errLost
	}
	if rec != nil && rec.outcome == "done" && l.at.direction == Do && l.node().isTx() && snap.state != Running {
		return false, errTurnedBack
	}
	l.learn(snap.rows)
	s := l.settlement(snap.state)
	s.rec = rec
	if rec != nil {
		snap.apply(l.at, rec)
		l.remember(rec)
		if rec.outcome == "failed" && !l.node().optional && snap.state == Running {
			s.cause = &Cause{Kind: CauseStep, Step: l.name(), Error: rec.err, At: time.Now().UTC()}
		}
	}
	return e.decide(ctx, tx, snap, s)
}

// decide plans from what was read under the lock, writes what follows, and commits.
func (e *Engine) decide(ctx context.Context, tx *stepTx, snap *locked, s settlement) (bool, error) {
	d := plan(s.g, snap.snapshot)
	if d.state != snap.state {
		s.state = d.state
	}
	if s.cause != nil {
		snap.cause = *s.cause
	}
	if s.lane != nil {
		s.here, s.others = s.lane.divide(d.begin)
	} else {
		for _, t := range d.begin {
			s.others.add(s.g, t)
		}
	}
	failpoint.Hit("settle.before")
	err := tx.commit(ctx, func(b *pgx.Batch) {
		for _, x := range d.dissolve {
			b.Queue(sql.LaneDissolve, s.sagaID, x.lane, x.record)
		}
		b.Queue(sql.Settle, s.args()...)
	})
	if err != nil {
		return false, answered(err)
	}
	failpoint.Hit("settle.after")
	if s.lane != nil { // not before: a commit that failed has changed nothing
		s.lane.sagaAt, s.lane.cause = d.state, snap.cause
		for _, x := range d.dissolve {
			if x.record {
				s.lane.doubts[s.g.nodes[snap.lane(x.lane).node].name] = true
			}
		}
	}
	if s.state != "" {
		e.log.InfoContext(ctx, "saga is "+string(s.state), "saga", s.g.name, "saga_id", s.sagaID, "cause", snap.cause.String())
	}
	return e.settled(&s, sql.TakeWakes(tx.conn.Conn())), nil
}
