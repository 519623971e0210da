package pgengine

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// record is the outcome of the step that a lane is at, to be written with the lane's next claim.
type record struct {
	outcome string // done, failed, nothing, skipped
	result  json.RawMessage
	stored  json.RawMessage // result as it is stored; see keep
	inDoubt bool
	err     string
	note    string // of an operator, or a Recover
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
	key     codec.Key // that rec's result is to be under
	worker  string
	attempt int
	token   *int64
	laneID  *int64
	isChild bool
	born    time.Time // the saga
	events  []Event   // what is recorded with it; nil: what happened says
	parked  error     // why the lane was left to an operator; nil: it was not
}

func (l *lane) settlement(from ...State) settlement {
	s := settlement{sagaID: l.sagaID, lane: l, at: l.at, g: l.g, worker: l.opts.Worker, attempt: l.attempt + 1, token: &l.token, laneID: &l.id}
	s.step, s.isChild, s.born, s.key = l.name(), l.isChild, l.born, l.key
	for _, f := range from {
		s.from = append(s.from, string(f))
	}
	return s
}

func (s *settlement) args() []any {
	var outcome, result, failure, note, nextStep, nextDirection, state, cause *string
	var doubt bool
	var took float64
	var nextGeneration *int
	if s.rec != nil {
		outcome, doubt, took = &s.rec.outcome, s.rec.inDoubt, s.rec.took.Seconds()
		if s.rec.stored != nil {
			text := string(s.rec.stored)
			result = &text
		}
		failure, note = optional(s.rec.err), optional(s.rec.note)
	}
	if s.here != nil {
		direction := string(s.here.direction)
		nextStep, nextDirection, nextGeneration = s.g.nameOf(s.here), &direction, &s.here.generation
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
		outcome, doubt, s.attempt, result, failure, note, took,
		nextStep, nextDirection, nextGeneration, state, cause,
		s.others.steps, s.others.directions, s.others.generations, s.others.queues, s.others.priorities,
	}
}

// settled does what is due once a settlement has committed.
func (e *Engine) settled(s *settlement, wakes []string) (moved bool) {
	e.metrics.settled(s)
	e.wake(append(wakes, s.others.wakes()...)...)
	if e.listener != nil {
		if s.lane != nil && !s.lane.taken { // its first step has begun the saga, too
			e.told(s.g.passage(s.sagaID, Running))
		}
		if s.events == nil {
			s.events = s.happened()
		}
		e.told(s.events...)
	}
	if s.state.Ended() {
		e.ends.tell(s.sagaID, nil)
		if len(s.g.gates) > 0 {
			e.leave(context.Background(), RunOptions{}, s.sagaID, "")
		}
		if s.isChild {
			e.wake(ControlQueue) // its parent is told by a command
		}
	}
	e.halted(s)
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
		if s, ok := l.straight(rec); ok && !l.paused {
			if err := e.keep(ctx, tx, &s); err != nil {
				return false, err
			}
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
	if !n.known || l.waits != "" || l.g.hooks.any() { // a wait has more to write down
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

// plain: the lane goes on with one step, or ends with its saga, and nobody has to be told.
func (s *settlement) plain() bool {
	return s.others.steps == nil && (s.here != nil || s.state != "") && !(s.isChild && s.state.Ended())
}

// queue adds the cheapest statements for a straight settlement to b, and returns the first: the fences.
func (s *settlement) queue(b *pgx.Batch) *pgx.QueuedQuery {
	if !s.plain() {
		return b.Queue(sql.Settle, s.args()...)
	}
	fence := sql.SettleNext
	if !s.lane.taken {
		fence = sql.SettleFirst
	}
	first := b.Queue(fence, s.sagaID, s.laneID, s.token, s.step, s.attempt, s.worker, string(s.rec.stored), s.rec.took.Seconds())
	s.queueMove(b)
	return first
}

// queueMove moves the lane of a plain settlement, behind its fences.
func (s *settlement) queueMove(b *pgx.Batch) {
	switch {
	case s.here == nil:
		b.Queue(sql.LaneEnd, s.sagaID, s.laneID)
		b.Queue(sql.SagaComplete, s.sagaID)
	case !s.lane.taken:
		b.Queue(sql.LaneMoveFirst, s.sagaID, s.laneID, s.g.nodes[s.here.node].name, s.worker, s.token)
	default:
		b.Queue(sql.LaneMove, s.sagaID, s.laneID, s.g.nodes[s.here.node].name)
	}
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
			if err := e.keep(ctx, e.pool, &s); err != nil {
				return false, err
			}
			var settled bool
			var err error
			if s.plain() && l.taken {
				settled, err = e.settling.do(ctx, &s, e.settleTogether)
			} else {
				settled, err = e.settleAlone(ctx, &s)
			}
			if err != nil {
				return false, err
			}
			if settled {
				return e.settled(&s, nil), nil
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

// underLock runs f in a transaction that holds the saga's lock, with what was read under it; f commits. Like every
// settlement it is repeated until the database has answered.
func (e *Engine) underLock(ctx context.Context, l *lane, f func(context.Context, *stepTx, *locked) (bool, error)) (bool, error) {
	return e.persist(ctx, l, false, func(ctx context.Context) (bool, error) {
		return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
			snap, err := readLocked(ctx, tx, l.g, l.sagaID)
			if err != nil {
				return false, err
			}
			return f(ctx, tx, snap)
		})
	})
}

// ended records the outcome of the lane's step, and what follows, in a transaction of its own.
func (e *Engine) ended(ctx context.Context, l *lane, rec *record) (bool, error) {
	return e.underLock(ctx, l, func(ctx context.Context, tx *stepTx, snap *locked) (bool, error) {
		return e.decideStep(ctx, tx, l, snap, rec)
	})
}

// turnBack ends a lane at a step that must not go on, since its saga turns back. What works in Postgres alone
// has had no effect; anything else in doubt is recorded as such, and undone as such.
func (e *Engine) turnBack(ctx context.Context, l *lane) (bool, error) {
	return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		snap, err := readLocked(ctx, tx, l.g, l.sagaID)
		if err != nil {
			return false, err
		}
		if l.taken && l.node().isTx() && l.at.direction == Do && snap.state == Running && snap.paused && !l.paused {
			// It does not turn back: its saga was paused while a TxStep was at work, whose commit was not to begin what
			// follows. It had begun, so it ends: once more, and then it is planned what follows.
			l.paused = true
			return true, nil
		}
		return e.decideStep(ctx, tx, l, snap, l.doubtful())
	})
}

// doubtful is the outcome of a step that its saga does not wait for; nil: it has none.
func (l *lane) doubtful() *record {
	if !l.node().outside() || !l.inDoubt || l.at.direction != Do {
		return nil
	}
	rec := &record{outcome: "failed", inDoubt: true, err: l.lastErr}
	if rec.err == "" {
		rec.err = "the call was cut off"
		if l.node().hasChildren() {
			rec.err = "its children had not ended"
		}
	}
	return rec
}

// planned ends the step of lane l in tx by what plan says, and commits it.
func (e *Engine) planned(ctx context.Context, tx *stepTx, l *lane, rec *record) (bool, error) {
	snap, err := readLocked(ctx, tx, l.g, l.sagaID)
	if err != nil {
		return false, err
	}
	return e.decideStep(ctx, tx, l, snap, rec)
}

// decideStep ends the step of lane l by what was read under the lock. rec nil: it has no outcome.
func (e *Engine) decideStep(ctx context.Context, tx *stepTx, l *lane, snap *locked, rec *record) (bool, error) {
	if !snap.removeLane(l) {
		return false, errLost
	}
	if rec != nil && rec.outcome == "done" && l.at.direction == Do && !l.node().outside() && snap.state != Running {
		return false, errTurnedBack
	}
	if err := e.learn(ctx, tx, l, snap.rows); err != nil {
		return false, err
	}
	s := l.settlement(snap.state)
	s.rec = rec
	if rec != nil {
		snap.apply(l.at, rec)
		l.remember(rec)
		if rec.outcome == "failed" && l.at.direction == Do && !l.node().optional && snap.state == Running {
			s.cause = &Cause{Kind: CauseStep, Step: l.name(), Error: rec.err, At: time.Now().UTC()}
		}
	}
	return e.decide(ctx, tx, snap, s)
}

// decide plans from what was read under the lock, writes what follows, and commits.
func (e *Engine) decide(ctx context.Context, tx *stepTx, snap *locked, s settlement) (bool, error) {
	d := plan(s.g, snap.snapshot)
	s.born = snap.born
	if d.state != snap.state {
		s.state = d.state
	}
	if s.cause != nil {
		snap.cause = *s.cause
	}
	if d.state == Running {
		snap.cause = Cause{}
	}
	if s.lane != nil {
		s.here, s.others = s.lane.divide(d.begin)
	} else {
		for _, t := range d.begin {
			s.others.add(s.g, t)
		}
	}
	if s.cause == nil && d.state == Stuck && snap.cause.Kind == "" { // stuck on its way forward
		s.cause = &Cause{Kind: CauseStep, At: time.Now().UTC()}
		if s.parked != nil {
			s.cause.Step, s.cause.Error = s.step, describe(s.parked)
		}
	}
	for _, t := range d.forgo {
		s.events = append(s.events, s.g.event(s.sagaID, t, &record{outcome: "skipped"}))
	}
	for _, x := range d.dissolve {
		if l := snap.lane(x.lane); x.record {
			s.events = append(s.events, s.g.event(s.sagaID, task{node: l.node, direction: Do}, &record{outcome: "failed", inDoubt: true, err: "its saga turned back"}))
		}
	}
	s.events = append(s.events, s.happened()...)
	if s.g.hooks.any() {
		var input json.RawMessage
		if s.lane != nil {
			input = s.lane.input
		}
		results, err := e.resultsOf(ctx, tx, s.g, snap.rows, s.step, s.rec)
		if err == nil {
			err = e.callHooks(ctx, tx, s.g, snap.key, input, results, s.events)
		}
		if err != nil {
			return false, err
		}
	}
	if err := e.keep(ctx, tx, &s); err != nil {
		return false, err
	}
	failpoint.Hit("settle.before")
	err := tx.commit(ctx, func(b *pgx.Batch) {
		for _, x := range d.dissolve {
			b.Queue(sql.LaneDissolve, s.sagaID, x.lane, x.record)
		}
		rest := s
		if len(d.forgo) > 0 && s.rec != nil { // first that it is done, then that it is left as it is
			did := s
			did.state, did.cause, did.others = "", nil, lanes{}
			b.Queue(sql.Settle, did.args()...)
			rest.rec, rest.here, rest.laneID, rest.token = nil, nil, nil, nil
		}
		for _, t := range d.forgo {
			f := settlement{
				sagaID: s.sagaID, g: s.g, from: s.from, at: t, step: s.g.nodes[t.node].name,
				rec: &record{outcome: "skipped", note: "the undo of a step that came after it has given up"},
			}
			if snap.noUndo {
				f.rec.note = "an operator ended the saga without undoing it"
			}
			b.Queue(sql.Settle, f.args()...)
		}
		b.Queue(sql.Settle, rest.args()...)
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
