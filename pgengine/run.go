package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Ticket is what a River job says: something may be ready in a saga, at a lane. It is a hint. A ticket
// that comes twice, late, or for nothing does no harm.
type Ticket struct {
	SagaID  string
	Name    string
	Version int
	Lane    int64  // 0: the saga's commands wait
	Step    string // "": the lane has no step yet, the saga is to begin
	Attempt int    // how often the job was handed out; 0 and 1: for the first time
}

// RunOptions are how a worker drives lanes.
type RunOptions struct {
	Worker     string              // the worker's id
	JobPerStep bool                // every step is a River job of its own
	Idle       time.Duration       // how long a step's transaction may send nothing; 0: 5 s
	Stopping   <-chan struct{}     // closed: end the step at hand, then hand the lane back
	Due        func(time.Duration) // told when something of the saga falls due; nil: nobody
}

func (o RunOptions) due(in time.Duration) {
	if o.Due != nil {
		o.Due(in)
	}
}

// errLost: somebody else drives the lane now, or it has ended.
var errLost = errors.New("the lane was taken over")

// errTurnedBack: a TxStep came to its commit after its saga had begun to turn back. It is rolled back,
// which undoes it for nothing.
var errTurnedBack = errors.New("the saga has turned back")

// Run drives one lane of a saga for as long as there is something for it to do.
//
//	Run
//	├ take             the lane is ours; or gone, held, not due: nothing to do
//	└ advance          until the lane ends, is somebody else's, or has used up its budget
//	   ├ Do, Undo      yours: inside a transaction (TxStep), or outside any (Activity)
//	   ├ lock          the saga's row, late: still running? the lane still ours?
//	   ├ plan          pure: go on with this, schedule those, undo those, wait, or finish
//	   └ settle        outcome, claim of the lane's next step, jobs of what else is ready; COMMIT
//
// A step that is followed by what comes after it alone needs no look at its siblings: lock, settle and
// COMMIT are one round trip. The others lock and read first, plan, and settle.
//
// It returns nil whenever the lane has been dealt with, whatever became of the step. An error means
// that the database could not be brought to an answer before ctx ended, and that the sweeper must see to it.
func (e *Engine) Run(ctx context.Context, t Ticket, o RunOptions) error {
	if o.Idle <= 0 {
		o.Idle = 5 * time.Second
	}
	g := e.graphs[t.Name][t.Version]
	if g == nil {
		return fmt.Errorf("saga %s version %d is not known to this worker (saga %s)", t.Name, t.Version, t.SagaID)
	}
	if t.Lane == 0 {
		return e.untilAnswered(ctx, func() error { return e.obey(ctx, g, t.SagaID, o) })
	}
	l := &lane{id: t.Lane, token: newToken(), sagaID: t.SagaID, g: g, opts: o, begun: time.Now(), at: task{node: -1, direction: Do, generation: 1}}
	e.hold(l)
	defer e.letGo(l)
	failpoint.Hit("take.before")
	if err := e.untilAnswered(ctx, func() error { return e.take(ctx, l, t) }); err != nil {
		if errors.Is(err, errLost) {
			return nil
		}
		return fmt.Errorf("saga %s %s: take lane %d: %w", t.Name, t.SagaID, t.Lane, err)
	}
	failpoint.Hit("take.after")

	for {
		moved, err := e.advance(ctx, l)
		switch {
		case err == nil && moved && l.stopping():
			return e.handBack(l, false)
		case err == nil && moved:
			continue
		case err == nil:
			return nil
		case errors.Is(err, errLost):
			e.log.DebugContext(ctx, "lane was taken over", "saga", g.name, "saga_id", l.sagaID, "step", l.name())
			return nil
		case ctx.Err() != nil:
			return e.handBack(l, true)
		case !transient(err):
			// Nothing that we know of: leave the lane to the sweeper's next look rather than spin.
			e.log.ErrorContext(ctx, "lane stopped", "saga", g.name, "saga_id", l.sagaID, "step", l.name(), "error", err)
			return errors.Join(fmt.Errorf("saga %s %s: step %s: %w", g.name, l.sagaID, l.name(), err), e.handBack(l, true))
		}
		// The database went away, or said "not now". Whatever was open was rolled back, unless it was a
		// COMMIT whose answer got lost: the lane's row tells.
		pause(ctx, 50*time.Millisecond)
		err = e.untilAnswered(ctx, func() error { return e.locate(ctx, l) })
		if errors.Is(err, errLost) && !l.taken {
			err = e.untilAnswered(ctx, func() error { return e.begin(ctx, l) })
		}
		if errors.Is(err, errLost) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *lane) name() string {
	if l.at.node < 0 {
		return ""
	}
	return l.node().name
}

func (e *Engine) hold(l *lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held[l.id] = l.token
}

func (e *Engine) letGo(l *lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held[l.id] == l.token {
		delete(e.held, l.id)
	}
}

// take makes lane l this worker's, and learns what the worker must know to drive it. It returns errLost
// if there is nothing to take.
func (e *Engine) take(ctx context.Context, l *lane, t Ticket) error {
	if t.Step == "" {
		if t.Attempt <= 1 && l.lightFooted() {
			return e.peek(ctx, l)
		}
		return e.begin(ctx, l)
	}
	var cause, input []byte
	var left *float64
	b := &pgx.Batch{} // no BEGIN: what a pipeline holds up to its end is one transaction
	// Under the saga's lock. Without it: whoever turns the saga back reads this lane as waiting; we take it
	// and call the outside; he dissolves it as never begun; and the call's effect is never undone.
	b.Queue(sql.SagaLock, l.sagaID).QueryRow(func(row pgx.Row) error {
		return row.Scan(nil, nil, &l.sagaAt, &input, &cause, &left, nil)
	})
	b.Queue(sql.LaneTake, l.id, l.sagaID, l.opts.Worker, l.token).QueryRow(func(row pgx.Row) error {
		return l.scan(row)
	})
	b.Queue(sql.StepList, l.sagaID).Query(func(rows pgx.Rows) error {
		outcomes, err := scanSteps(rows)
		l.learn(outcomes)
		return err
	})
	err := e.pool.SendBatch(ctx, b).Close()
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return answered(err)
	}
	l.input, l.taken = input, true
	l.setDeadline(left)
	return json.Unmarshal(cause, &l.cause)
}

// peek learns what the first step must know, and takes nothing: a TxStep has no effect before its commit,
// which takes the lane, and so saves a commit of the claim alone. If the worker dies at it, the job comes
// again, and then the lane is taken first, so that crashes are counted.
func (e *Engine) peek(ctx context.Context, l *lane) error {
	var input []byte
	var left *float64
	err := e.pool.QueryRow(ctx, sql.LanePeek, l.sagaID, l.id).Scan(&l.sagaAt, &input, &left)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return answered(err)
	}
	l.at, l.input, l.results, l.queue = l.g.first()[0], input, map[string]json.RawMessage{}, defaultQueue
	l.setDeadline(left)
	return nil
}

// begin takes the lane that a start has left, and puts it at the first step. Nothing has happened in the
// saga yet: where it begins follows from the definition, and one statement does it all.
func (e *Engine) begin(ctx context.Context, l *lane) error {
	here, others := l.divide(l.g.first())
	var name *string
	if here != nil {
		name = &l.g.nodes[here.node].name
	}
	var input []byte
	var left *float64
	err := e.pool.QueryRow(ctx, sql.LaneBegin, l.sagaID, l.id, l.opts.Worker, l.token, name,
		others.steps, others.directions, others.generations, others.queues).Scan(&l.sagaAt, &input, &left)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return answered(err)
	}
	e.wake(others.queues...)
	if here == nil {
		return errLost // every first step has a queue of its own
	}
	l.at, l.input, l.results, l.queue, l.taken = *here, input, map[string]json.RawMessage{}, defaultQueue, true
	l.setDeadline(left)
	return nil
}

// setDeadline is told how long the saga has left by the database's clock, in seconds; nil: for ever.
func (l *lane) setDeadline(left *float64) {
	if left != nil {
		l.deadline = time.Now().Add(time.Duration(*left * float64(time.Second)))
	}
}

// scan reads the lane's own row.
func (l *lane) scan(row pgx.Row) error {
	var step string
	if err := row.Scan(&step, &l.at.direction, &l.at.generation, &l.queue, &l.attempt, &l.crashes, &l.inDoubt, &l.lastErr); err != nil {
		return err
	}
	i, ok := l.g.index[step]
	if !ok {
		return fmt.Errorf("saga %s version %d has no step %q, and a lane of saga %s is at it: the definition changed under its version", l.g.name, l.g.version, step, l.sagaID)
	}
	l.at.node, l.taken = i, true
	return nil
}

// locate asks where the lane stands, after an answer was lost. errLost: it has ended, or is another's.
func (e *Engine) locate(ctx context.Context, l *lane) error {
	err := l.scan(e.pool.QueryRow(ctx, sql.LaneMine, l.sagaID, l.id, l.token))
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	return answered(err)
}

// learn remembers what the steps' outcomes mean for later calls.
func (l *lane) learn(outcomes []stepRow) {
	if l.results == nil {
		l.results = map[string]json.RawMessage{}
	}
	l.doubts = map[string]bool{}
	for _, r := range outcomes { // by generation: the latest wins
		if r.direction != Do {
			continue
		}
		l.doubts[r.step] = r.inDoubt
		if r.outcome == "done" {
			l.results[r.step] = r.result
		}
	}
}

// advance performs the step that the lane is at and settles it. moved: the lane goes on, at its next step.
func (e *Engine) advance(ctx context.Context, l *lane) (moved bool, err error) {
	n := l.node()
	if l.at.direction == Do && l.sagaAt != Running {
		return e.persist(ctx, l, func(ctx context.Context) (bool, error) { return e.turnBack(ctx, l) })
	}
	if l.crashes >= e.maxCrashes {
		return e.failed(ctx, l, failure{kind: "crash", err: Terminal(fmt.Errorf(
			"%d workers died at this step, so it is not tried again: %s", l.crashes, l.lastErr)), begun: time.Now(), effect: l.inDoubt})
	}
	switch {
	case l.at.direction == Do && n.isTx():
		return e.doTx(ctx, l)
	case l.at.direction == Do:
		return e.doActivity(ctx, l)
	case n.isTx():
		return e.undoTx(ctx, l)
	default:
		return e.undoActivity(ctx, l)
	}
}

// doTx runs a TxStep's Do in the transaction that settles it.
func (e *Engine) doTx(ctx context.Context, l *lane) (bool, error) {
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return false, err
	}
	defer tx.close()
	begun := time.Now()
	var raw json.RawMessage
	err = e.attempt(ctx, l, func(ctx context.Context) error {
		c := l.call()
		c.maxBytes = e.maxPayload
		var err error
		raw, err = l.node().doTx(e.inStep(ctx, l), tx, c)
		return err
	})
	if err == nil {
		err = tx.owned()
	}
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err() // we are being stopped: nobody's failure
		}
		if tx.lost(err) || transient(err) {
			return false, &unavailableError{err}
		}
		tx.close() // what follows needs a connection, and must not wait for these locks, and that for a connection which this one keeps
		return e.failed(ctx, l, failure{err: err, begun: begun})
	}

	failpoint.Hit("do_tx.before")
	rec := &record{outcome: "done", result: raw, took: time.Since(begun)}
	moved, err := e.settle(ctx, tx, l, rec)
	if err == nil {
		failpoint.Hit("do_tx.after")
		return moved, nil
	}
	tx.close()
	switch {
	case errors.Is(err, errTurnedBack):
		return e.persist(ctx, l, func(ctx context.Context) (bool, error) { return e.turnBack(ctx, l) })
	case errors.Is(err, errLost), transient(err):
		return false, err
	default: // a deferred constraint of the user's, at COMMIT
		return e.failed(ctx, l, failure{err: err, begun: begun})
	}
}

// doActivity calls an Activity's Do, outside any transaction, and settles what came of it.
func (e *Engine) doActivity(ctx context.Context, l *lane) (bool, error) {
	begun := time.Now()
	var raw json.RawMessage
	err := e.attempt(ctx, l, func(ctx context.Context) error {
		c := l.call()
		c.maxBytes = e.maxPayload
		var err error
		raw, err = l.node().do(ctx, c)
		return err
	})
	failpoint.Hit("do_activity.called")
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err() // we are being stopped: nobody's failure, and in doubt
		}
		return e.failed(ctx, l, failure{err: err, begun: begun, effect: mayHaveHappened(l.node(), err)})
	}

	rec := &record{outcome: "done", result: raw, took: time.Since(begun)}
	moved, err := e.persist(ctx, l, func(ctx context.Context) (bool, error) {
		failpoint.Hit("do_activity.before")
		moved, err := e.settleActivity(ctx, l, rec, l.node().commit)
		if err == nil {
			failpoint.Hit("do_activity.after")
		}
		return moved, err
	})
	switch {
	case errors.Is(err, errLost):
		return false, e.untilAnswered(ctx, func() error { return e.late(ctx, l, raw) })
	case err == nil, transient(err), ctx.Err() != nil:
		return moved, err
	default: // the call went well and its Commit did not
		return e.failed(ctx, l, failure{err: err, begun: begun, effect: true})
	}
}

// undoTx runs a TxStep's Undo in the transaction that settles it.
func (e *Engine) undoTx(ctx context.Context, l *lane) (bool, error) {
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return false, err
	}
	defer tx.close()
	begun := time.Now()
	err = e.attempt(ctx, l, func(ctx context.Context) error {
		return l.node().undoTx(e.inStep(ctx, l), tx, l.call(), l.results[l.node().name])
	})
	if err == nil {
		err = tx.owned()
	}
	if err == nil {
		failpoint.Hit("undo_tx.before")
		var moved bool
		if moved, err = e.settle(ctx, tx, l, &record{outcome: "done", took: time.Since(begun)}); err == nil {
			failpoint.Hit("undo_tx.after")
			return moved, nil
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if errors.Is(err, errLost) {
		return false, err
	}
	if tx.lost(err) || transient(err) {
		return false, &unavailableError{err}
	}
	tx.close() // what follows needs a connection, and must not wait for these locks, and that for a connection which this one keeps
	return e.failed(ctx, l, failure{err: err, begun: begun})
}

// undoActivity undoes an Activity: what happened, or what may have happened once it is known.
func (e *Engine) undoActivity(ctx context.Context, l *lane) (bool, error) {
	begun := time.Now()
	n, rec := l.node(), &record{outcome: "done"}
	var raw json.RawMessage
	err := e.attempt(ctx, l, func(ctx context.Context) error {
		c := l.call()
		raw = l.results[n.name]
		if l.doubts[n.name] {
			var found bool
			var err error
			if raw, found, err = e.resolve(ctx, l); err != nil {
				return err
			}
			if !found && n.lookup != nil {
				rec.outcome = "nothing" // a null compensation: there is nothing to undo
				return nil
			}
			c.inDoubt = !found
			if found {
				rec.result = raw
			}
		}
		return n.undo(ctx, c, raw)
	})
	failpoint.Hit("undo_activity.called")
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return e.failed(ctx, l, failure{err: err, begun: begun})
	}
	rec.took = time.Since(begun)
	var commit func(context.Context, pgx.Tx, *call, json.RawMessage) error
	if rec.outcome == "done" {
		commit = n.undoCommit
	}
	moved, err := e.persist(ctx, l, func(ctx context.Context) (bool, error) {
		failpoint.Hit("undo_activity.before")
		moved, err := e.settleUndone(ctx, l, rec, raw, commit)
		if err == nil {
			failpoint.Hit("undo_activity.after")
		}
		return moved, err
	})
	if err == nil || transient(err) || errors.Is(err, errLost) || ctx.Err() != nil {
		return moved, err
	}
	return e.failed(ctx, l, failure{err: err, begun: begun})
}

// resolve finds out whether an Activity in doubt happened: it asks Lookup or, without one, does it once
// more with its key, whose answer is then that of the first time. Not even that: not found, no error.
func (e *Engine) resolve(ctx context.Context, l *lane) (raw json.RawMessage, found bool, err error) {
	c := l.call()
	c.direction = Do // its keys are those of the call that is in doubt
	if l.node().lookup != nil {
		return l.node().lookup(ctx, c)
	}
	err = guarded(func() error {
		var err error
		raw, err = l.node().do(ctx, c)
		return err
	})
	if err != nil {
		e.log.InfoContext(ctx, "an activity in doubt could not be repeated; it is undone by its key",
			"saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "error", describe(err))
		return nil, false, ctx.Err()
	}
	return raw, true, nil
}

// timeoutError: an attempt's time was up and it returned an error.
type timeoutError struct {
	after time.Duration
	what  string
	err   error
}

func (t *timeoutError) Error() string {
	return fmt.Sprintf("timed out after %v (%s): %v", t.after.Round(time.Millisecond), t.what, t.err)
}
func (t *timeoutError) Unwrap() error { return t.err }

// attempt calls f with the step's time limit and turns a panic into an error. A function that outlives
// its context is waited for, since nothing in Go can end it and two at once would be worse; if what
// it returns at last is a success, it counts.
func (e *Engine) attempt(ctx context.Context, l *lane, f func(context.Context) error) error {
	limit, what := l.node().timeout, "the step's Timeout"
	if !l.deadline.IsZero() && l.at.direction == Do {
		if left := time.Until(l.deadline); limit == 0 || left < limit {
			limit, what = max(left, time.Millisecond), "the saga's deadline"
		}
	}
	begun := time.Now()
	inner := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		inner, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err := guarded(func() error { return f(inner) })
	took := time.Since(begun)
	if limit > 0 && took > limit+time.Second {
		e.log.WarnContext(ctx, "a step ignores its context", "saga", l.g.name, "saga_id", l.sagaID, "step", l.name(),
			"direction", string(l.at.direction), "limit", limit, "took", took, "error", err)
	}
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		if _, terminal := errors.AsType[*TerminalError](err); !terminal {
			return &timeoutError{after: took, what: what, err: err}
		}
	}
	return err
}

// guarded turns a panic of f into an error; a panic with an error keeps it.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if perr, ok := p.(error); ok {
				if _, terminal := errors.AsType[*TerminalError](perr); terminal {
					err = perr
					return
				}
			}
			err = &PanicError{Value: p, Stack: string(debug.Stack())}
		}
	}()
	return f()
}

// mayHaveHappened: an error of a call that does not say that it had no effect.
func mayHaveHappened(n *node, err error) bool {
	if errors.As(err, new(*resultError)) {
		return true
	}
	return n.retry.retryable(err)
}

// inStep puts the saga into the context of functions that get a transaction, for the messages they write.
func (e *Engine) inStep(ctx context.Context, l *lane) context.Context {
	return sql.WithStep(ctx, l.sagaID, l.node().name)
}

// handBack gives the lane to whoever is next, as this worker is being stopped. A call that was begun, and
// cut off, may have had its effect.
func (e *Engine) handBack(l *lane, begun bool) error {
	if !l.taken {
		return fmt.Errorf("saga %s %s: stopped before its first step had ended", l.g.name, l.sagaID) // River tries again
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := e.pool.Exec(ctx, sql.LaneHandBack, l.sagaID, l.id, l.token, begun && !l.node().isTx()); err != nil {
		return fmt.Errorf("saga %s %s: hand back lane %d: %w", l.g.name, l.sagaID, l.id, err)
	}
	e.wake(l.queue)
	return nil
}

// persist repeats settle until the database has answered. After each failure it first asks where the
// lane stands, since the answer to a COMMIT may have been lost: if the lane has moved, it went through.
func (e *Engine) persist(ctx context.Context, l *lane, settle func(context.Context) (bool, error)) (bool, error) {
	was := l.at
	for n := 0; ; n++ {
		moved, err := settle(ctx)
		if !transient(err) || ctx.Err() != nil {
			return moved, err
		}
		e.log.WarnContext(ctx, "a step is done and not yet recorded, trying again", "saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "error", err)
		pause(ctx, min(time.Duration(n+1)*50*time.Millisecond, time.Second))
		if err := e.untilAnswered(ctx, func() error { return e.locate(ctx, l) }); err != nil {
			return false, err
		}
		if l.at != was {
			l.steps++
			return true, nil
		}
	}
}

// untilAnswered repeats f while the database is away or busy, until ctx ends.
func (e *Engine) untilAnswered(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if !transient(err) || ctx.Err() != nil {
			return err
		}
		if n == 0 {
			e.log.WarnContext(ctx, "the database does not answer, trying again", "error", err)
		}
		pause(ctx, min(time.Duration(n+1)*50*time.Millisecond, time.Second))
	}
}

// pause waits about d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
