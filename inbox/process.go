package inbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
)

// silence is how long a handler may send nothing to Postgres before its transaction is ended.
const silence = 30 * time.Second

// Process handles one message in one transaction: the claim, the handler, its duration, the commit. It says
// whether this was the first time; a duplicate is not handled and is no error. It is what a program
// calls that has messages from elsewhere; [Consumer] does the same for a broker's, many at a time.
//
// A duplicate that comes while the first is being handled waits for it, and is handled if that one fails. A lock
// timeout, a deadlock, a serialization failure or a lost connection has the whole transaction tried again, some
// seconds long at most; what is left of those, and the handler's error, is returned. Then the message must
// come again.
func Process(ctx context.Context, pool *pgxpool.Pool, consumer string, m Message, h Handler) (first bool, err error) {
	it, err := newItem(Delivery{Message: m})
	if err != nil {
		return false, fmt.Errorf("process for %s: %w", consumer, err)
	}
	w := worker{pool: pool, consumer: consumer, handler: h, tracer: tracing.Tracer(nil), idle: limitIdle(pool, silence)}
	var r report
	for attempt := 0; ; attempt++ {
		r, err = w.run(ctx, []*item{it})
		if err == nil || !isPassing(err) || attempt == 8 || pause(ctx, jitter(10*time.Millisecond<<attempt)) != nil {
			break
		}
	}
	if err == nil {
		err = r.outcomes[0].err()
	}
	if err != nil {
		return false, fmt.Errorf("process event %s for %s: %w", m.ID, consumer, err)
	}
	return r.outcomes[0] == firstTime, nil
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// jitter is between half of d and d, so that those who met do not meet again.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
