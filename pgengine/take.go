package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// take makes lane l this worker's, and learns what the worker must know to drive it. It returns errLost
// if there is nothing to take.
func (e *Engine) take(ctx context.Context, l *lane, t Ticket) error {
	if t.Step == "" {
		if err := e.admit(ctx, l); err != nil {
			return err
		}
		if t.Attempt <= 1 && l.lightFooted() {
			if err := e.peek(ctx, l); err != nil || l.at.generation > 0 {
				return err
			}
		}
		return e.begin(ctx, l)
	}
	return e.read(ctx, l, sql.LaneTake, l.id, l.sagaID, l.opts.Worker, l.token)
}

// read learns all that must be known to drive lane l, whose row is what claim answers with; errLost if
// it answers with none.
//
// It reads behind the saga's lock. A take without it: whoever turns the saga back reads this lane as waiting;
// we take it and call the outside; he dissolves it as never begun; and the call's effect is never undone. And
// after a lost answer: the COMMIT may still be on its way (it waits for a replica, say), and holds the lock
// until it is through.
func (e *Engine) read(ctx context.Context, l *lane, claim string, args ...any) error {
	var cause, input []byte
	var left *float64
	var from origin
	b := &pgx.Batch{} // no BEGIN: what a pipeline holds up to its end is one transaction
	b.Queue(sql.SagaLock, l.sagaID).QueryRow(func(row pgx.Row) error {
		return row.Scan(nil, nil, &l.sagaAt, &input, &cause, &left, &l.isChild, nil, &from.age, &from.traceparent)
	})
	b.Queue(claim, args...).QueryRow(func(row pgx.Row) error { return l.scan(row) })
	var outcomes []stepRow
	b.Queue(sql.StepList, l.sagaID).Query(func(rows pgx.Rows) (err error) {
		outcomes, err = scanSteps(rows)
		return err
	})
	err := e.pool.SendBatch(ctx, b).Close()
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return answered(err)
	}
	l.setDeadline(left)
	l.origin = from.complete()
	if err := json.Unmarshal(cause, &l.cause); err != nil {
		return err
	}
	l.unreadable = nil
	if err := e.understand(ctx, l, input); err != nil {
		return err
	}
	return e.learn(ctx, e.pool, l, outcomes)
}

// peek learns what the first step must know, and takes nothing: a TxStep has no effect before its commit,
// which takes the lane, and so saves a commit of the claim alone. If the worker dies at it, the job comes
// again, and then the lane is taken first, so that crashes are counted. Generation 0: it can't be done so, see inherit.
func (e *Engine) peek(ctx context.Context, l *lane) error {
	var input []byte
	var left *float64
	var from origin
	var generation int
	err := e.pool.QueryRow(ctx, sql.LanePeek, l.sagaID, l.id).Scan(&l.sagaAt, &input, &left, &l.isChild, &from.age, &from.traceparent, &generation)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLost
	}
	if err != nil {
		return answered(err)
	}
	l.at, l.results, l.queue = l.g.first()[0], map[string]json.RawMessage{}, defaultQueue
	l.at.generation = generation
	l.setDeadline(left)
	l.origin = from.complete()
	return e.understand(ctx, l, input)
}

// begin takes the lane that a start has left, and puts it at the first step. Nothing has happened in the
// saga yet: where it begins follows from the definition, and one statement does it all. For a saga that goes on for
// another it finds nothing.
func (e *Engine) begin(ctx context.Context, l *lane) error {
	here, others := l.divide(l.g.first())
	var name *string
	if here != nil {
		name = &l.g.nodes[here.node].name
	}
	var input []byte
	var left *float64
	var from origin
	begin := func(q sql.Querier) error {
		return q.QueryRow(ctx, sql.LaneBegin, l.sagaID, l.id, l.opts.Worker, l.token, name,
			others.steps, others.directions, others.generations, others.queues, others.priorities).Scan(&l.sagaAt, &input, &left, &l.isChild, &from.age, &from.traceparent)
	}
	var err error
	if l.g.hooks.start == nil {
		err = begin(e.pool)
	} else {
		err = e.inHookTx(ctx, l, func(tx *stepTx) error {
			if err := begin(tx); err != nil {
				return err
			}
			plain, err := e.open(ctx, tx, atInput(l.g.name), input)
			if errors.Is(err, codec.ErrErased) { // the lane finds out at its first step
				return nil
			}
			if err != nil {
				return err
			}
			return e.callHooks(ctx, tx, l.g, codec.KeyIn(input), plain, nil, []Event{l.g.passage(l.sagaID, Running)})
		})
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return e.inherit(ctx, l)
	}
	if errors.As(err, new(*hookError)) || errors.As(err, new(*codec.Error)) {
		return err
	}
	if err != nil {
		return answered(err)
	}
	e.wake(others.wakes()...)
	e.told(l.g.passage(l.sagaID, Running))
	if here == nil {
		return errLost // every first step has a queue of its own
	}
	l.at, l.results, l.queue, l.taken = *here, map[string]json.RawMessage{}, defaultQueue, true
	l.setDeadline(left)
	l.origin = from.complete()
	return e.understand(ctx, l, input)
}

// inherit begins a saga that goes on for another one: where, follows from what it took over. It returns errLost, as whatever
// begins has a lane and a job of its own.
func (e *Engine) inherit(ctx context.Context, l *lane) error {
	begun := &lane{sagaID: l.sagaID, g: l.g, opts: l.opts, at: l.g.first()[0]} // for inTx's limits
	_, err := e.inTx(ctx, begun, func(ctx context.Context, tx *stepTx) (bool, error) {
		snap, err := readLocked(ctx, tx, l.g, l.sagaID)
		if err != nil {
			return false, err
		}
		at := slices.IndexFunc(snap.lanes, func(o laneAt) bool { return o.id == l.id && o.node < 0 && o.generation == 0 })
		if at < 0 || snap.state != Running || snap.paused {
			return false, errLost
		}
		if _, err := tx.Exec(ctx, sql.LaneDissolve, l.sagaID, l.id, false); err != nil {
			return false, answered(err)
		}
		snap.lanes = slices.Delete(slices.Clone(snap.lanes), at, at+1)
		return e.decide(ctx, tx, snap, settlement{
			sagaID: l.sagaID, g: l.g, from: []string{string(Running)}, at: task{direction: Do, generation: 1}, isChild: snap.isChild,
			events: []Event{l.g.passage(l.sagaID, Running)},
		})
	})
	if err == nil {
		err = errLost
	}
	return err
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
	if err := row.Scan(&step, &l.at.direction, &l.at.generation, &l.queue, &l.attempt, &l.crashes, &l.inDoubt, &l.lastErr,
		&l.waits, &l.waited); err != nil {
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
	return e.read(ctx, l, sql.LaneMine, l.sagaID, l.id, l.token)
}

// learn remembers what the steps' outcomes mean for later calls.
func (e *Engine) learn(ctx context.Context, db sql.Querier, l *lane, outcomes []stepRow) error {
	if l.results == nil {
		l.results = map[string]json.RawMessage{}
	}
	l.doubts, l.origins = map[string]bool{}, nil
	for _, r := range outcomes { // by generation: the latest wins
		if r.direction != Do {
			continue
		}
		l.doubts[r.step] = r.inDoubt
		if r.origin != "" {
			if l.origins == nil {
				l.origins = map[string]string{}
			}
			l.origins[r.step] = r.origin
		}
		if r.outcome == "done" {
			result, err := e.open(ctx, db, atResult(l.g.name), r.result)
			if err = l.excuse(err); err != nil {
				return err
			}
			l.results[r.step] = result
		}
	}
	return nil
}
