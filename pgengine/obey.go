package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
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
			said, err := o.obey(ctx, c, opts)
			if err != nil {
				return false, err
			}
			if c.Audit == nil {
				continue
			}
			if _, err := tx.Exec(ctx, sql.AuditAnswer, *c.Audit, said.is, said.why); err != nil {
				return false, answered(err)
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
	Audit        *int64 // who asks for it; nil: no operator
	Body         json.RawMessage
}

// reply is what becomes of a command, as it stands in the audit.
type reply struct{ is, why string }

var obeyed = reply{is: "obeyed"}

func already(why string) reply { return reply{"already", why} } // it is as was asked for
func late(why string) reply    { return reply{"too late", why} }
func refused(why string) reply { return reply{"refused", why} }

// obeying is the transaction in which commands are applied, under the saga's lock.
type obeying struct {
	e    *Engine
	tx   *stepTx
	snap *locked
	g    *graph
	s    settlement
}

// obey does what a command says and tells what has become of it. What makes no sense is left out, as somebody may have
// written it with psql: were it kept, no other would be heard again.
func (o *obeying) obey(ctx context.Context, c command, opts RunOptions) (reply, error) {
	r, err := o.apply(ctx, c, opts)
	if err != nil {
		return r, err
	}
	level, said := slog.LevelInfo, "a command changes nothing"
	switch r.is {
	case "obeyed":
		return r, nil
	case "refused":
		level, said = slog.LevelError, "a command was refused"
	}
	o.e.log.Log(ctx, level, said, "command", c.Kind, "why", r.why, "saga", o.g.name, "saga_id", o.s.sagaID, "state", string(o.snap.state))
	return r, nil
}

func (o *obeying) apply(ctx context.Context, c command, opts RunOptions) (reply, error) {
	switch c.Kind {
	case "revert":
		return o.revert(c), nil
	case "child":
		return o.childEnded(ctx, c)
	}
	if o.snap.state.Ended() {
		return late("it is " + string(o.snap.state)), nil
	}
	switch c.Kind {
	case "cancel", "deadline":
		switch {
		case o.passed():
			return late("it is past its pivot, and goes forward only"), nil
		case o.snap.state != Running:
			return already("it turns back already"), nil
		}
		o.turn(CauseKind(c.Kind), c.Reason)
		return obeyed, nil
	case "abandon":
		return o.abandon(ctx, c)
	case "pause", "resume":
		return o.pause(ctx, c.Kind == "pause", opts)
	case "retry":
		return o.retry(ctx, c, opts)
	case "signal":
		return o.signal(ctx, c)
	case "resolve", "skip":
		return o.resolve(ctx, c)
	case "plan":
		return obeyed, nil // as after every command
	}
	return refused("unknown command " + c.Kind), nil
}

// passed: the saga is past its pivot.
func (o *obeying) passed() bool { return o.g.pivot >= 0 && o.snap.steps[o.g.pivot].outcome == done }

func (o *obeying) turn(why CauseKind, reason string) {
	o.s.cause = &Cause{Kind: why, Reason: reason, At: time.Now().UTC()}
	o.snap.state, o.s.state = Failing, Failing
}

// abandon leaves what is not undone as it is.
func (o *obeying) abandon(ctx context.Context, c command) (reply, error) {
	switch {
	case o.passed():
		return refused("it is past its pivot, and goes forward only: skip or resolve its steps"), nil
	case o.snap.noUndo:
		return already("it undoes nothing any more"), nil
	case o.snap.state == Running:
		o.turn(CauseCancel, c.Reason)
	case o.s.cause == nil:
		if _, err := o.tx.Exec(ctx, sql.SagaAbandon, o.s.sagaID); err != nil {
			return reply{}, answered(err)
		}
		o.snap.cause.NoUndo = true
	}
	if o.s.cause != nil {
		o.s.cause.NoUndo = true
	}
	o.snap.noUndo = true
	return obeyed, nil
}

// pause holds the saga up, or lets it go on: what is ready then is planned as ever.
func (o *obeying) pause(ctx context.Context, on bool, opts RunOptions) (reply, error) {
	statement := sql.SagaResume
	if on {
		statement = sql.SagaPause
	}
	switch {
	case on && o.snap.paused:
		return already("it is paused already"), nil
	case !on && !o.snap.paused:
		return already("it is not paused"), nil
	}
	if _, err := o.tx.Exec(ctx, statement, o.s.sagaID); err != nil {
		return reply{}, answered(err)
	}
	o.snap.paused = on
	opts.due(0)
	return obeyed, nil
}

// revert takes a child back, as its parent asks: one that runs turns back, one that is completed is reopened.
func (o *obeying) revert(c command) reply {
	switch {
	case o.snap.state == Compensated:
		return already("it is compensated")
	case o.passed():
		return refused("its parent asks for it to be taken back, and it is past its pivot")
	case o.snap.state == Running:
		o.turn(CauseParent, c.Reason)
	case o.snap.state == Completed:
		o.s.cause = &Cause{Kind: CauseParent, Reason: c.Reason, At: time.Now().UTC()}
		o.snap.state, o.s.state = Compensating, Compensating
	default:
		return already("it turns back already")
	}
	return obeyed
}

// childEnded notes what a child tells of its end, and sets the lane going that waits for it.
func (o *obeying) childEnded(ctx context.Context, c command) (reply, error) {
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
		return refused("what a child tells does not read: " + err.Error()), nil
	}
	if _, err := o.tx.Exec(ctx, sql.ChildEnded, o.s.sagaID, child.Step, child.Item, child.SagaID, c.Reason); err != nil {
		return reply{}, answered(err)
	}
	return obeyed, o.resume(ctx, "child", child.Step)
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

// retry sets what has given up, or waits for its next attempt, going again; but for undos that are an operator's own.
func (o *obeying) retry(ctx context.Context, c command, opts RunOptions) (reply, error) {
	var of resolved // "": all of the saga
	if err := json.Unmarshal(c.Body, &of); err != nil {
		return refused("what it is about does not read: " + err.Error()), nil
	}
	manual := []string{}
	for _, n := range o.g.nodes {
		if n.manualUndo {
			manual = append(manual, n.name)
		}
	}
	tag, err := o.tx.Exec(ctx, sql.CommandUnpark, o.s.sagaID, manual, optional(of.Step))
	if err != nil {
		return reply{}, answered(err)
	}
	if tag.RowsAffected() == 0 {
		return already("nothing of it waits to be tried again"), nil
	}
	for i, l := range o.snap.lanes {
		asked := l.node >= 0 && (of.Step == "" || o.g.nodes[l.node].name == of.Step)
		if asked && !o.g.manual(task{node: l.node, direction: l.direction}) {
			o.snap.lanes[i].parked = false
		}
	}
	opts.due(0)
	return obeyed, nil
}

// maxKey is how many bytes a signal's key may have: it stands in an index.
const maxKey = 512

// signal keeps a signal, and sets the lanes going that wait for one of its name.
func (o *obeying) signal(ctx context.Context, c command) (reply, error) {
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
		return refused("the signal does not read: " + err.Error()), nil
	}
	kept := false
	for _, n := range o.g.nodes {
		if n.signal != c.Reason {
			continue
		}
		if !kept {
			plain, err := o.e.open(ctx, o.tx, atSignal(c.Reason), sent.Payload)
			if err == nil {
				err = guarded(func() error { return n.fits(plain) })
			}
			switch {
			case errors.As(err, new(*codec.Error)): // kept: whoever has the key will see whether it fits
			case transient(err) || sql.State(err) != "":
				return reply{}, err
			case err != nil:
				return refused("its payload does not fit: " + err.Error()), nil
			}
			if _, err := o.tx.Exec(ctx, sql.SignalKeep, o.s.sagaID, c.Reason, sent.Key, string(sent.Payload), sent.SentAt); err != nil {
				return reply{}, answered(err)
			}
			kept = true
		}
		if err := o.resume(ctx, "signal", n.name); err != nil {
			return reply{}, err
		}
		for i, l := range o.snap.lanes { // one that had given up goes on, too
			o.snap.lanes[i].parked = l.parked && (l.node < 0 || o.g.nodes[l.node].name != n.name)
		}
	}
	if !kept {
		return refused("no step awaits it"), nil
	}
	return obeyed, nil
}

// resolve writes what an operator has decided of a step: what has become of one that waits for him, or that it is to be
// skipped. Of two operators the second finds that it does not wait any more.
func (o *obeying) resolve(ctx context.Context, c command) (reply, error) {
	var r resolved
	if err := json.Unmarshal(c.Body, &r); err != nil {
		return refused("the decision does not read: " + err.Error()), nil
	}
	var err error
	if r.Result, err = o.e.open(ctx, o.tx, atResult(o.g.name), r.Result); err != nil {
		if errors.As(err, new(*codec.Error)) {
			return refused(err.Error()), nil
		}
		return reply{}, err
	}
	i, ok := o.g.index[r.Step]
	if !ok {
		return refused("there is no such step"), nil
	}
	at := slices.IndexFunc(o.snap.lanes, func(l laneAt) bool {
		return l.node == i && (r.Direction == "" || l.direction == r.Direction && l.generation == r.Generation)
	})
	if at < 0 {
		return late("it does not wait"), nil
	}
	l := o.snap.lanes[at]
	t := task{node: i, direction: l.direction, generation: l.generation}
	var rec *record
	switch {
	case c.Kind == "skip":
		rec, err = o.g.skip(l)
	case !l.parked:
		return late("it does not wait for an operator"), nil
	default:
		rec, err = o.g.resolution(t, r)
	}
	if err != nil {
		return refused(err.Error()), nil
	}
	rec.note = c.Reason
	if _, err := o.tx.Exec(ctx, sql.LaneDissolve, o.s.sagaID, l.id, false); err != nil {
		return reply{}, answered(err)
	}
	one := settlement{sagaID: o.s.sagaID, g: o.g, from: o.s.from, at: t, step: r.Step, rec: rec, key: o.snap.key}
	if err := o.e.keep(ctx, o.tx, &one); err != nil {
		if errors.As(err, new(*codec.Error)) {
			return refused(err.Error()), nil
		}
		return reply{}, err
	}
	if _, err := o.tx.Exec(ctx, sql.Settle, one.args()...); err != nil {
		return reply{}, answered(err)
	}
	o.snap.lanes = slices.Delete(slices.Clone(o.snap.lanes), at, at+1)
	o.snap.apply(t, rec)
	o.s.events = append(o.s.events, o.g.event(o.s.sagaID, t, rec))
	if rec.outcome == "failed" && o.snap.cause.Kind == "" {
		o.s.cause = &Cause{Kind: CauseStep, Step: r.Step, Error: rec.err, At: time.Now().UTC()}
	}
	return obeyed, nil
}
