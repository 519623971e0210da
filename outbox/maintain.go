package outbox

import (
	"context"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// maintain moves messages that fall due and those whose writers did not publish them, rotates slots, keeps the archive and counts against the limit,
// until ctx ends. Every relay does; the database lets one at a time.
func (r *Relay) maintain(ctx context.Context) {
	m := housekeeping{r: r}
	failures := 0
	for {
		begun := time.Now()
		next, err := m.once(ctx, begun)
		if err == nil {
			failures = 0
		} else if ctx.Err() == nil {
			if failures++; failures == 1 || failures%100 == 0 {
				r.log.WarnContext(ctx, "the outbox's housekeeping failed, trying again", "error", err)
			}
		}
		// What a commit scheduled may be due before what was next; whoever wakes nobody is found by the look of each second.
		if !sleep(ctx, dueLeast, nil) || !sleep(ctx, time.Until(begun.Add(next)), r.stirs) {
			return
		}
	}
}

// sleep waits for d, or until something is sent; false: ctx has ended.
func sleep(ctx context.Context, d time.Duration, sent <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-sent:
	}
	return true
}

// housekeeping is what a relay does now and then.
type housekeeping struct {
	r      *Relay
	keepAt time.Time // when more than the due is looked at
	shedAt time.Time // and the archive
}

// once does what it is time for, and says in how long there may be more.
func (m *housekeeping) once(ctx context.Context, now time.Time) (next time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	next, err = m.due(ctx)
	if err != nil {
		return dueMost, err
	}
	if now.Before(m.keepAt) {
		return next, nil
	}
	m.keepAt = now.Add(keepTick)
	return next, m.keep(ctx, now)
}

// due moves messages that are, and says in how long the next will be.
func (m *housekeeping) due(ctx context.Context) (next time.Duration, err error) {
	var moved int
	var nextIn *float64 // nil: none, or another relay knows
	if err := m.r.own.QueryRow(ctx, sql.OutboxDue, dueLimit).Scan(&moved, &nextIn); err != nil {
		return 0, err
	}
	if moved > 0 {
		failpoint.Hit("outbox.due.after")
		m.r.wake()
	}
	if nextIn == nil || *nextIn > dueMost.Seconds() {
		return dueMost, nil
	}
	return time.Duration(*nextIn * float64(time.Second)), nil
}

// keep tends what else there is.
func (m *housekeeping) keep(ctx context.Context, now time.Time) error {
	r := m.r
	var moved int
	var emptied bool
	if err := r.own.QueryRow(ctx, sql.OutboxDirectTend, 1000, directTurn, directBytes).Scan(&moved, &emptied); err != nil {
		return err
	}
	if moved > 0 {
		failpoint.Hit("outbox.direct.moved")
		r.wake()
	}
	var rotated, truncated bool
	if err := r.own.QueryRow(ctx, sql.OutboxRotate, r.cfg.RotateRows, r.cfg.RotateEvery, r.cfg.Archive > 0).Scan(&rotated, &truncated); err != nil {
		return err
	}
	if rotated {
		failpoint.Hit("outbox.rotate.rotated")
	}
	if truncated {
		failpoint.Hit("outbox.rotate.truncated")
	}
	statement, args := sql.OutboxPressureOff, []any(nil)
	if r.cfg.MaxPending > 0 {
		statement, args = sql.OutboxPressure, []any{r.cfg.MaxPending}
	}
	if _, err := r.own.Exec(ctx, statement, args...); err != nil {
		return err
	}
	if r.cfg.Archive > 0 && !now.Before(m.shedAt) {
		m.shedAt = now.Add(shedTick)
		if _, err := r.own.Exec(ctx, sql.OutboxArchiveDrop, r.cfg.Archive); err != nil {
			return err
		}
	}
	return nil
}
