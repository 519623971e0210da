package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// mayTry says whether an item that is alone is to be handled. If not, it has been dealt with here.
func (l *lane) mayTry(ctx context.Context, it *item) bool {
	switch {
	case it.ended != nil:
		err := it.ended
		it.ended = nil
		l.failed(ctx, it, err)
		return false
	case it.verdict != nil:
		l.giveUp(ctx, it, it.verdict.reason, it.verdict.err)
		return false
	case it.delivery.Redelivered >= suspect && !it.counted:
		// Whoever handled it before may not have lived to count the attempt. So it is counted first.
		attempts, ok := l.count(ctx, it, fmt.Errorf("delivered %d times before, and never dealt with", it.delivery.Redelivered))
		if !ok {
			return false
		}
		it.counted, it.attempts = true, attempts // 0: a duplicate, as will be seen
		if attempts > l.c.cfg.MaxAttempts {
			l.giveUp(ctx, it, "attempts", errors.New("whoever handles it does not live to tell"))
			return false
		}
	}
	return true
}

// failed deals with an item whose own transaction has failed.
func (l *lane) failed(ctx context.Context, it *item, err error) {
	if later, ok := errors.AsType[*LaterError](err); ok {
		l.hold(it, later.Delay)
		return
	}
	ctx = traced(ctx, it)
	if p, ok := errors.AsType[*PanicError](err); ok {
		l.c.log.ErrorContext(ctx, "handler panicked", "event", it.m.ID, "topic", it.m.Topic, "type", it.m.Type, "panic", p.Value, "stack", p.Stack)
	}
	if errors.As(err, new(*TerminalError)) {
		l.giveUp(ctx, it, "terminal", err)
		return
	}
	attempts, ok := it.attempts, it.counted
	it.counted = false
	if !ok {
		if attempts, ok = l.count(ctx, it, err); !ok {
			return
		}
	}
	switch {
	case attempts == 0: // the next look finds a duplicate
		l.hold(it, 0)
		return
	case attempts >= l.c.cfg.MaxAttempts:
		l.giveUp(ctx, it, "attempts", err)
		return
	}
	l.c.metrics.retries.WithLabelValues(l.c.metrics.label(it.m.Type)).Inc()
	delay := l.c.cfg.Backoff.delay(attempts)
	l.c.log.WarnContext(ctx, "handler failed", "event", it.m.ID, "topic", it.m.Topic, "type", it.m.Type, "key", it.m.Key,
		"attempt", attempts, "error", describe(err), "again_in", delay)
	l.hold(it, delay)
}

// count counts a failed attempt, in a transaction of its own: the handler's was rolled back. 0 attempts: somebody
// else has dealt with the event meanwhile. If it can't, the item waits, and is not ok.
func (l *lane) count(ctx context.Context, it *item, why error) (attempts int, ok bool) {
	failpoint.Hit("inbox.count.before")
	defer failpoint.Hit("inbox.count.after")
	err := l.c.pool.QueryRow(ctx, sql.InboxFail, l.c.cfg.Name, it.id.String(), clean(it.m.Topic), clean(it.m.Type), describe(why)).Scan(&attempts)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, true
	case err != nil:
		l.c.log.WarnContext(ctx, "cannot count a failed attempt; the message is tried again", "event", it.m.ID, "failed_with", describe(why), "error", err)
		l.hold(it, l.c.cfg.Backoff.delay(5))
		return 0, false
	}
	return attempts, true
}

// giveUp puts an item among the dead letters and marks it as taken, in one transaction: its key moves on. If it
// can't, the item waits to be given up.
func (l *lane) giveUp(ctx context.Context, it *item, reason string, why error) {
	// A handler that is about to be given up for good must not be tried again.
	it.verdict = &verdict{reason, why}
	var dead *DeadLetter
	bounded, cancel := context.WithTimeout(ctx, l.c.cfg.Timeout)
	defer cancel()
	err := pgx.BeginTxFunc(bounded, l.c.pool, readCommitted, func(tx pgx.Tx) (err error) {
		dead, err = l.c.bury(bounded, tx, it, reason, why)
		failpoint.Hit("inbox.bury.before")
		if err == nil && dead != nil && l.c.cfg.OnDead != nil {
			err = protected(func() error {
				return l.c.cfg.OnDead(l.c.worker.payloads.inHandler(bounded, it.m), handlerTx{tx}, *dead)
			})
		}
		return err
	})
	if err != nil {
		l.c.log.ErrorContext(ctx, "cannot dead-letter a message; it waits", "event", it.m.ID, "reason", reason, "failed_with", describe(why), "error", err)
		l.hold(it, jitter(min(l.c.cfg.Backoff.Max, 5*time.Second)))
		return
	}
	failpoint.Hit("inbox.bury.after")
	if dead == nil {
		l.c.metrics.done(duplicate, it.m.Type, 0)
	} else {
		l.c.metrics.dead.WithLabelValues(l.c.metrics.label(it.m.Type)).Inc()
		l.c.log.ErrorContext(ctx, "a message was given up: it waits among the dead letters", "event", it.m.ID, "topic", it.m.Topic,
			"type", it.m.Type, "dead_letter", dead.ID, "reason", reason, "attempts", dead.Attempts, "error", describe(why))
	}
	l.c.settle(ctx, []*item{it})
}

// bury writes the dead letter. nil: the event has been dealt with, or lies there already.
func (c *Consumer) bury(ctx context.Context, tx pgx.Tx, it *item, reason string, why error) (*DeadLetter, error) {
	if err := c.worker.seal(ctx, tx, it); unkeepable(err) {
		it.stored = codec.NotKept()
	} else if err != nil {
		return nil, err
	}
	var outcomes []outcome
	err := tx.QueryRow(ctx, sql.InboxClaims, claimArguments(c.cfg.Name, []claim{it.claim}, nil, c.cfg.KeepPayload)...).Scan(&outcomes)
	if err != nil || outcomes[0] == duplicate {
		return nil, err
	}
	if outcomes[0].err() != nil { // whatever else it is given up for: it does not count as taken
		reason = string(outcomes[0])
	}
	d := &DeadLetter{Consumer: c.cfg.Name, EventID: it.id.String(), Message: *it.m, Reason: reason, Error: describe(why)}
	var row pgx.Row
	if it.dead != 0 {
		row = tx.QueryRow(ctx, sql.InboxDeadAgain, c.cfg.Name, d.EventID, it.dead, it.redrive.String(), reason, d.Error)
	} else {
		headers := make(map[string]string, len(it.m.Headers))
		for k, v := range it.m.Headers {
			headers[clean(k)] = clean(v)
		}
		raw, err := json.Marshal(headers)
		if err != nil {
			return nil, err
		}
		stored, err := c.worker.payloads.seal(ctx, tx, c.cfg.Name, it.id, it.m)
		if unkeepable(err) { // better without its payload than never
			c.log.WarnContext(ctx, "the payload of a dead letter is not kept", "event", it.m.ID, "error", err)
			stored, err = codec.NotKept(), nil
		}
		if err != nil {
			return nil, err
		}
		var sent *time.Time
		if !it.m.Time.IsZero() {
			sent = &it.m.Time
		}
		row = tx.QueryRow(ctx, sql.InboxDeadPut, c.cfg.Name, d.EventID, it.m.ID, it.m.Source, it.m.Attempt, clean(it.m.Topic), clean(it.m.Key),
			clean(it.m.Type), stored, string(raw), clean(it.m.TraceParent), sent, reason, d.Error)
	}
	err = row.Scan(&d.ID, &d.Attempts, &d.FirstAt, &d.DiedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return d, err
}
