package outbox

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// wake has the loop look at once, and the housekeeping soon.
func (r *Relay) wake() {
	r.woken.Add(1)
	for _, c := range []chan struct{}{r.wakes, r.stirs} {
		select {
		case c <- struct{}{}:
		default: // it is about to
		}
	}
}

// committed is told of commits in this process, on the goroutine that committed. It keeps what this relay
// sees to; for the rest NOTIFY is sent.
func (r *Relay) committed(queues []string) (rest []string) {
	owned := r.owned.Load()
	mine := false
	for _, q := range queues {
		if n, ok := strings.CutPrefix(q, sql.OutboxQueue); ok && has(owned, n) {
			mine = true
			continue
		}
		rest = append(rest, q)
	}
	if mine {
		r.wake()
	}
	return rest
}

// has says whether number is one of owned. Anybody can send a NOTIFY: nothing else is a number.
func has(owned *[buckets]bool, number string) bool {
	n, err := strconv.Atoi(number)
	return err == nil && n >= 0 && n < buckets && owned[n]
}

// listen is the one LISTEN connection, until ctx ends.
func (r *Relay) listen(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		begun := time.Now()
		err := r.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > 10*time.Second {
			failures = 0
		}
		if failures++; failures == 1 || failures%20 == 0 {
			r.log.WarnContext(ctx, "the connection that listens was lost; the poll goes on, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff(50*time.Millisecond, 2*time.Second, failures, rand.Float64())):
		}
	}
}

func (r *Relay) listenOnce(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, r.directConfig("pgsagaz outbox listen"))
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, sql.OutboxListen); err != nil {
		return err
	}
	r.listening.Store(true)
	defer r.listening.Store(false)
	r.wake() // what committed before this is not told of
	for {
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		n, err := conn.WaitForNotification(bounded)
		quiet := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			owned := r.owned.Load()
			for number := range strings.SplitSeq(n.Payload, ",") {
				if has(owned, number) {
					r.wake()
					break
				}
			}
		case quiet:
			ping, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}
