package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// obey applies the commands that wait for a saga, and plans.
func (e *Engine) obey(ctx context.Context, g *graph, sagaID string, opts RunOptions) error {
	l := &lane{sagaID: sagaID, g: g, opts: opts, at: task{node: 0}} // for inTx's limits
	failpoint.Hit("obey.before")
	_, err := e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		var commands []command
		snap, err := readLocked(ctx, tx, g, sagaID)
		if err != nil {
			return false, err
		}
		rows, err := tx.Query(ctx, sql.CommandTake, sagaID)
		if err != nil {
			return false, answered(err)
		}
		commands, err = pgx.CollectRows(rows, pgx.RowToStructByPos[command])
		if err != nil {
			return false, answered(err)
		}
		o := obeying{e: e, tx: tx, snap: snap, g: g, s: settlement{
			sagaID: sagaID, g: g, from: []string{string(snap.state)}, at: task{direction: Do, generation: 1}, isChild: snap.isChild,
		}}
		for _, c := range commands {
			if err := o.obey(ctx, c, opts); err != nil {
				return false, err
			}
		}
		s := o.s
		return e.decide(ctx, tx, snap, s)
	})
	if errors.Is(err, errLost) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("saga %s %s: apply commands: %w", g.name, sagaID, err)
	}
	failpoint.Hit("obey.after")
	return nil
}

// command is a row of the table of that name.
type command struct {
	Kind, Reason string
	Body         json.RawMessage
}

// obeying is the transaction in which commands are applied, under the saga's lock.
type obeying struct {
	e    *Engine
	tx   *stepTx
	snap *locked
	g    *graph
	s    settlement
}

func (o *obeying) obey(ctx context.Context, c command, opts RunOptions) error {
	late := func() {
		o.e.log.InfoContext(ctx, "command came too late", "command", c.Kind, "saga", o.g.name, "saga_id", o.s.sagaID, "state", string(o.snap.state))
	}
	switch c.Kind {
	case "cancel", "deadline":
		if o.snap.state != Running || o.passed() {
			late()
			return nil
		}
		o.turn(CauseKind(c.Kind), c.Reason)
		return nil
	case "revert":
		return o.revert(ctx, c, late)
	case "child":
		return o.childEnded(ctx, c)
	}
	if o.snap.state.Ended() {
		late()
		return nil
	}
	switch c.Kind {
	case "retry":
		return o.retry(ctx, opts)
	case "signal":
		return o.signal(ctx, c)
	case "resolve":
		return o.resolve(ctx, c)
	}
	return o.drop(ctx, c, fmt.Errorf("unknown command %q", c.Kind))
}

// drop leaves out a command that makes no sense, as somebody may have written it with psql. Were it kept, no
// other would be heard again.
func (o *obeying) drop(ctx context.Context, c command, why error) error {
	o.e.log.ErrorContext(ctx, "a command was dropped", "command", c.Kind, "reason", c.Reason, "saga", o.g.name, "saga_id", o.s.sagaID, "why", why)
	return nil
}

// passed: the saga is past its pivot.
func (o *obeying) passed() bool { return o.g.pivot >= 0 && o.snap.steps[o.g.pivot].outcome == done }

func (o *obeying) turn(why CauseKind, reason string) {
	o.s.cause = &Cause{Kind: why, Reason: reason, At: time.Now().UTC()}
	o.snap.state, o.s.state = Failing, Failing
}

// revert takes a child back, as its parent asks: one that runs turns back, one that is completed is reopened.
func (o *obeying) revert(ctx context.Context, c command, late func()) error {
	switch {
	case o.snap.state.Ended() && o.snap.state != Completed:
		late()
	case o.passed():
		o.e.log.ErrorContext(ctx, "a parent asks for a child that is past its pivot: it can't be taken back", "saga", o.g.name, "saga_id", o.s.sagaID)
	case o.snap.state == Running:
		o.turn(CauseParent, c.Reason)
	case o.snap.state == Completed:
		o.s.cause = &Cause{Kind: CauseParent, Reason: c.Reason, At: time.Now().UTC()}
		o.snap.state, o.s.state = Compensating, Compensating
	default:
		late() // it turns back anyway
	}
	return nil
}

// childEnded notes what a child tells of its end, and sets the lane going that waits for it.
func (o *obeying) childEnded(ctx context.Context, c command) error {
	var child struct {
		Step   string `json:"step"`
		Item   int    `json:"item"`
		SagaID string `json:"saga_id"`
	}
	err := json.Unmarshal(c.Body, &child)
	if err == nil {
		_, err = uuid.Parse(child.SagaID)
	}
	if err == nil && !State(c.Reason).Ended() {
		err = fmt.Errorf("%q is no end", c.Reason)
	}
	if err != nil {
		return o.drop(ctx, c, fmt.Errorf("what a child tells does not read: %w", err))
	}
	if _, err := o.tx.Exec(ctx, sql.ChildEnded, o.s.sagaID, child.Step, child.Item, child.SagaID, c.Reason); err != nil {
		return answered(err)
	}
	return o.resume(ctx, "child", child.Step)
}

// resume sets a lane going that waits.
func (o *obeying) resume(ctx context.Context, waits, step string) error {
	if _, err := o.tx.Exec(ctx, sql.LaneResume, o.s.sagaID, waits, step); err != nil {
		return answered(err)
	}
	if i, ok := o.g.index[step]; ok {
		sql.WakeLater(o.tx.conn.Conn(), o.g.queue(task{node: i}))
	}
	return nil
}

// retry sets what has given up going again; but for undos that are an operator's own.
func (o *obeying) retry(ctx context.Context, opts RunOptions) error {
	manual := []string{}
	for _, n := range o.g.nodes {
		if n.manualUndo {
			manual = append(manual, n.name)
		}
	}
	if _, err := o.tx.Exec(ctx, sql.CommandUnpark, o.s.sagaID, manual); err != nil {
		return answered(err)
	}
	for i, l := range o.snap.lanes {
		o.snap.lanes[i].parked = l.parked && l.node >= 0 && o.g.manual(task{node: l.node, direction: l.direction})
	}
	opts.due(0)
	return nil
}

// maxKey is how many bytes a signal's key may have: it stands in an index.
const maxKey = 512

// signal keeps a signal, and sets the lanes going that wait for one of its name.
func (o *obeying) signal(ctx context.Context, c command) error {
	var sent struct {
		Payload json.RawMessage `json:"payload"`
		Key     *string         `json:"key"`
		SentAt  time.Time       `json:"sent_at"`
	}
	err := json.Unmarshal(c.Body, &sent)
	if err == nil && sent.Payload == nil {
		err = errors.New("it has no payload")
	}
	if err == nil && sent.Key != nil && len(*sent.Key) > maxKey {
		err = fmt.Errorf("its key has %d bytes, at most %d are allowed", len(*sent.Key), maxKey)
	}
	if err != nil {
		return o.drop(ctx, c, fmt.Errorf("the signal does not read: %w", err))
	}
	kept := false
	for _, n := range o.g.nodes {
		if n.signal != c.Reason {
			continue
		}
		if !kept {
			if err := guarded(func() error { return n.fits(sent.Payload) }); err != nil {
				return o.drop(ctx, c, fmt.Errorf("its payload does not fit: %w", err))
			}
			if _, err := o.tx.Exec(ctx, sql.SignalKeep, o.s.sagaID, c.Reason, sent.Key, string(sent.Payload), sent.SentAt); err != nil {
				return answered(err)
			}
			kept = true
		}
		if err := o.resume(ctx, "signal", n.name); err != nil {
			return err
		}
		for i, l := range o.snap.lanes { // one that had given up goes on, too
			o.snap.lanes[i].parked = l.parked && (l.node < 0 || o.g.nodes[l.node].name != n.name)
		}
	}
	if !kept {
		return o.drop(ctx, c, errors.New("no step awaits it"))
	}
	return nil
}

// resolve writes what an operator has decided of a step that waited for him.
func (o *obeying) resolve(ctx context.Context, c command) error {
	var r resolved
	if err := json.Unmarshal(c.Body, &r); err != nil {
		return o.drop(ctx, c, fmt.Errorf("the resolution does not read: %w", err))
	}
	refused := func(why string) error {
		o.e.log.ErrorContext(ctx, "an operator's decision was dropped", "saga", o.g.name, "saga_id", o.s.sagaID, "step", r.Step, "why", why)
		return nil
	}
	i, ok := o.g.index[r.Step]
	if !ok {
		return refused("there is no such step")
	}
	at := slices.IndexFunc(o.snap.lanes, func(l laneAt) bool { return l.node == i && l.parked })
	if at < 0 {
		return refused("it does not wait for an operator")
	}
	l := o.snap.lanes[at]
	rec, err := o.g.resolution(task{node: i, direction: l.direction, generation: l.generation}, r)
	if err != nil {
		return refused(err.Error())
	}
	rec.note = c.Reason
	if _, err := o.tx.Exec(ctx, sql.LaneResolve, o.s.sagaID, r.Step); err != nil {
		return answered(err)
	}
	one := settlement{sagaID: o.s.sagaID, g: o.g, from: o.s.from, at: task{node: i, direction: l.direction, generation: l.generation}, step: r.Step, rec: rec}
	if _, err := o.tx.Exec(ctx, sql.Settle, one.args()...); err != nil {
		return answered(err)
	}
	o.snap.lanes = slices.Delete(slices.Clone(o.snap.lanes), at, at+1)
	o.snap.apply(one.at, rec)
	if rec.outcome == "failed" && o.snap.cause.Kind == "" {
		o.s.cause = &Cause{Kind: CauseStep, Step: r.Step, Error: rec.err, At: time.Now().UTC()}
	}
	return nil
}
