package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// directDesk is the desk of an engine. The engine's methods Graph, History, Schedules and Versions are those of a desk.
type directDesk struct{ *pgengine.Engine }

func (d directDesk) Sagas(ctx context.Context, f pgengine.Filter) (all []pgengine.Status, err error) {
	for s, err := range d.List(ctx, f) {
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func (d directDesk) Saga(ctx context.Context, id string) (pgengine.Status, error) {
	return d.Get(ctx, id)
}

func (d directDesk) End(ctx context.Context, id string) (pgengine.Status, error) {
	for {
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		s, err := d.Wait(bounded, id)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return s, err
		}
		if s, err = d.Get(ctx, id); err != nil || s.State == pgengine.Stuck {
			return s, err
		}
	}
}

func (d directDesk) Workers(ctx context.Context, s pgengine.Status) ([]string, error) {
	rows, err := d.Pool().Query(ctx, sql.WorkerList)
	if err != nil {
		return nil, err
	}
	type worker struct {
		ID, Host      string
		PID           int
		Definitions   []string
		Started, Beat time.Time
		Live          bool
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[worker])
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, w := range all {
		if w.Live && slices.Contains(w.Definitions, fmt.Sprintf("%s/%d", s.Name, s.Version)) {
			names = append(names, w.ID)
		}
	}
	return names, nil
}

func (d directDesk) Schedule(ctx context.Context, name string) (pgengine.ScheduleStatus, error) {
	return d.GetSchedule(ctx, name)
}

func (d directDesk) Outbox(ctx context.Context) (outbox.Status, error) {
	return outbox.GetStatus(ctx, d.Pool())
}

func (d directDesk) OutboxLetters(ctx context.Context, f outbox.DeadFilter) ([]outbox.Dead, error) {
	return outbox.DeadLetters(ctx, d.Pool(), f)
}

func (d directDesk) OutboxLetter(ctx context.Context, id int64) (outbox.Dead, error) {
	return outbox.DeadLetter(ctx, d.Pool(), id)
}

func (d directDesk) Inbox(ctx context.Context) (inbox.State, error) {
	return inbox.Status(ctx, d.Pool())
}

func (d directDesk) InboxLetters(ctx context.Context, f inbox.DeadFilter) ([]inbox.DeadLetter, error) {
	f.Heads = true
	return inbox.DeadLetters(ctx, d.Pool(), f)
}

func (d directDesk) InboxLetter(ctx context.Context, id int64) (inbox.DeadLetter, error) {
	return inbox.Dead(ctx, d.Pool(), id)
}

func (d directDesk) InboxDo(ctx context.Context, verb string, ids []int64, by pgengine.By) ([]int64, error) {
	if verb == "drop" {
		return inbox.Drop(ctx, d.Pool(), by, ids...)
	}
	return inbox.Redrive(ctx, d.Pool(), by, ids...)
}

func (d directDesk) Do(ctx context.Context, id string, o order) (result done, err error) {
	err = sql.InTx(ctx, d.Pool(), func(tx pgx.Tx) error {
		switch o.on {
		case aSaga:
			result.Started, err = d.saga(ctx, tx, id, o)
		case aSchedule:
			err = d.schedule(ctx, tx, id, o)
		default:
			result.Redriven, err = messageDo(ctx, tx, id, o)
		}
		return err
	})
	return result, err
}

func (d directDesk) saga(ctx context.Context, tx pgx.Tx, id string, o order) (s pgengine.Started, err error) {
	switch o.verb {
	case "cancel":
		err = d.Cancel(ctx, tx, id, o.by)
	case "abandon":
		err = d.Abandon(ctx, tx, id, o.by)
	case "pause":
		err = d.Pause(ctx, tx, id, o.by)
	case "resume":
		err = d.Resume(ctx, tx, id, o.by)
	case "retry":
		if o.step != "" {
			err = d.RetryStep(ctx, tx, id, o.step, o.by)
		} else {
			err = d.Retry(ctx, tx, id, o.by)
		}
	case "skip":
		err = d.Skip(ctx, tx, id, o.step, o.by)
	case "resolve":
		err = d.Resolve(ctx, tx, id, o.step, pgengine.Resolution{Outcome: o.outcome, Result: o.result}, o.by)
	case "restart":
		s, err = d.Restart(ctx, tx, id, append([]string{o.step}, o.steps...), o.by)
	case "signal":
		var to pgengine.Target
		if to, err = target(id); err == nil {
			err = d.SignalJSON(ctx, tx, to, o.signal, o.payload, &pgengine.SignalOptions{Key: o.key, By: o.by})
		}
	default:
		err = fmt.Errorf("cli: a saga can't be asked to %s", o.verb)
	}
	return s, err
}

func (d directDesk) schedule(ctx context.Context, tx pgx.Tx, name string, o order) error {
	switch o.verb {
	case "pause":
		return d.PauseSchedule(ctx, tx, name, o.by)
	case "resume":
		return d.ResumeSchedule(ctx, tx, name, o.by)
	}
	return fmt.Errorf("cli: a schedule can't be asked to %s", o.verb)
}

// messageDo does something to a message that was given up.
func messageDo(ctx context.Context, tx pgx.Tx, id string, o order) (r outbox.Redriven, err error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return r, err
	}
	switch o.verb {
	case "redrive":
		return outbox.Redrive(ctx, tx, n, o.by)
	case "drop":
		return r, outbox.Drop(ctx, tx, n, o.by)
	}
	return r, fmt.Errorf("cli: nobody can %s a message", o.verb)
}
