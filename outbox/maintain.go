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
	tick := time.NewTicker(maintainTick)
	defer tick.Stop()
	failures := 0
	for n := 0; ; n++ {
		if err := r.maintainOnce(ctx, n); err != nil && ctx.Err() == nil {
			if failures++; failures == 1 || failures%100 == 0 {
				r.log.WarnContext(ctx, "the outbox's housekeeping failed, trying again", "error", err)
			}
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Relay) maintainOnce(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var moved int
	var nextIn float64
	if err := r.own.QueryRow(ctx, sql.OutboxDue, 1000).Scan(&moved, &nextIn); err != nil {
		return err
	}
	if moved > 0 {
		failpoint.Hit("outbox.due.after")
		r.wake()
	}
	if n%5 != 0 {
		return nil
	}
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
	if r.cfg.Archive > 0 && n%3000 == 0 {
		if _, err := r.own.Exec(ctx, sql.OutboxArchiveDrop, r.cfg.Archive); err != nil {
			return err
		}
	}
	return nil
}
