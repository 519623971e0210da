package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsagaz/pgsagaz/sql"
)

// RunSchedules starts the sagas of all schedules that are due, and says how many it started and how long it is to
// the next slot by the database's clock. A worker calls it again and again; any number may at once.
//
// Nobody leads. A schedule that is due is locked, its sagas are started, and its next slot is written, in one
// transaction. Of two workers, the one that comes second passes the row over while it is locked, and finds it not due after that;
// one that dies leaves everything as it was. Were the row put back by hand, the sagas' start keys, which are
// made of the slot, would still hold.
func (e *Engine) RunSchedules(ctx context.Context) (started int, next time.Duration, err error) {
	for {
		var seconds *float64
		if err := e.pool.QueryRow(ctx, sql.ScheduleWait).Scan(&seconds); err != nil {
			return started, 0, err
		}
		if seconds == nil {
			return started, math.MaxInt64, nil
		}
		if *seconds > 0 {
			return started, time.Duration(min(*seconds*float64(time.Second), math.MaxInt64/2)), nil
		}
		n, found, err := e.fire(ctx)
		started += n
		if err != nil || !found { // somebody else is at those that are due
			return started, 0, err
		}
	}
}

// due is a schedule as it is fired.
type due struct {
	ScheduleStatus
	next, now time.Time
}

// fire starts the sagas of one schedule that is due. found: there was one.
func (e *Engine) fire(ctx context.Context) (started int, found bool, err error) {
	err = sql.InTx(ctx, e.pool, func(tx pgx.Tx) error {
		started = 0
		var d due
		var input []byte
		err := tx.QueryRow(ctx, sql.ScheduleDue).Scan(&d.Name, &d.Cron, &d.Zone, &d.Saga, &input, &d.SlotField, &d.Tags, &d.Timeout,
			&d.CatchUp, &d.Most, &d.Grace, &d.next, &d.now)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		d.Input, found = input, true
		// In a savepoint: what can't be started now must not keep the others, and its slots stay due.
		err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) (err error) {
			started, err = e.startSlots(ctx, tx, d)
			return err
		})
		if err == nil || ctx.Err() != nil || transient(answered(err)) {
			return err
		}
		started = 0
		e.log.ErrorContext(ctx, "a schedule can't start its sagas; it is tried again", "schedule", d.Name, "saga", d.Saga, "slot", d.next, "error", err)
		_, err = tx.Exec(ctx, sql.ScheduleFailed, d.Name, describe(err), scheduleRetry.Seconds())
		return err
	})
	return started, found, err
}

// scheduleRetry is when a schedule that could not start its sagas is tried again.
const scheduleRetry = 5 * time.Second

func (e *Engine) startSlots(ctx context.Context, tx pgx.Tx, d due) (started int, err error) {
	clock, err := newCronClock(d.Cron, d.Zone)
	if err != nil {
		return 0, err
	}
	slots := clock.due(d)
	var last, lastSaga any
	for _, slot := range slots {
		input, err := fillSlot(d.Input, d.SlotField, slot)
		if err != nil {
			return 0, err
		}
		subject := ""
		if g := e.latest[d.Saga]; g != nil {
			if subject, err = g.subject(json.RawMessage(input)); err != nil {
				return 0, err
			}
		}
		s, err := e.start(ctx, tx, d.Saga, json.RawMessage(input), subject, &StartOptions{
			Key: slotKey(d.Name, slot), Tags: append([]string{"schedule:" + d.Name}, d.Tags...), Timeout: d.Timeout,
		})
		if err != nil {
			return 0, fmt.Errorf("slot %s: %w", slot.UTC().Format(time.RFC3339), err)
		}
		if !s.Existed {
			started++
		}
		last, lastSaga = slot, s.ID
	}
	if len(slots) == 0 || d.next.Before(slots[0]) {
		e.log.WarnContext(ctx, "slots of a schedule were missed, and start no saga", "schedule", d.Name, "catch_up", string(d.CatchUp), "from", d.next, "to", d.now)
	}
	_, err = tx.Exec(ctx, sql.ScheduleFired, d.Name, orNever(clock.next(d.now)), last, lastSaga)
	return started, err
}

// due are the slots that start a saga now, the oldest first.
func (c *cronClock) due(d due) []time.Time {
	onTime := d.now.Add(-d.Grace)
	if d.CatchUp == CatchUpAll || !d.next.Before(onTime) {
		return c.last(d.Most, d.next, d.now)
	}
	slots := c.last(d.Most, onTime, d.now)
	if len(slots) == 0 && d.CatchUp == CatchUpOnce {
		slots = c.last(1, d.next, d.now)
	}
	return slots
}

// slotKey is the start key of a slot's saga.
func slotKey(schedule string, slot time.Time) string {
	return "schedule " + schedule + " " + slot.UTC().Format(time.RFC3339)
}

// orNever is a time as Postgres is told; zero: never.
func orNever(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}
