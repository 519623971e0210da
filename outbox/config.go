package outbox

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/codec"
)

// Config tunes a [Relay]. The zero value of each field is its default.
type Config struct {
	// Lease is how long a relay may be silent before others take its buckets over. 0: 3 s; at least 500 ms.
	Lease time.Duration
	// Parallel is how many calls of Publish are under way at once, each for buckets of its own; while a part of the broker
	// fails, as many more for what does not get through. 0: 8.
	Parallel int
	// Batch is the most events of one call. 0: 500.
	Batch int
	// Window is how many events may be read and not yet acknowledged. 0: 16 times Batch.
	Window int
	// PublishTimeout bounds a call of Publish. 0: 10 s.
	PublishTimeout time.Duration
	// Poll is how often to look for messages when nothing tells of any; while there are some it is every
	// 5 ms. 0: 100 ms, and 500 ms in quiet times: nothing came for 10 s, LISTEN works, and for 10 min no poll found what no
	// wake had told of.
	Poll time.Duration
	// NoListen leaves LISTEN out: what commits in other processes is found by the poll.
	NoListen bool
	// Optimistic is what happens right after a commit. nil: enabled, with a timeout of 500 ms.
	Optimistic *Optimistic
	// Retry is what happens to an event that the broker rejects.
	Retry Retry

	// RotateRows and RotateEvery say when writers go on to the next slot of the table, so that the one
	// before can be emptied. 0: 100,000 rows, 30 s.
	RotateRows  int64
	RotateEvery time.Duration
	// Archive keeps published messages for so long, for [Replay]. 0: they are gone with their slot.
	Archive time.Duration
	// MaxPending makes Publish fail with [ErrFull] while so many messages are pending. It holds for all
	// writers, from when the first relay with a limit runs until the first without one does. 0: no limit.
	MaxPending int64

	// Grace is how long a stopping relay goes on with what it has read. 0: 5 s.
	Grace time.Duration
	// Codec decodes payloads that were published under one. nil: encoded ones wait.
	Codec *codec.Codec
	// Direct is how to reach the server itself where the pool goes through a pooler in transaction mode:
	// the relay's cursor and LISTEN need sessions. nil: as the pool.
	Direct *pgx.ConnConfig
	// Name of this relay, for people. "": made from the host's name.
	Name     string
	Registry prometheus.Registerer // of metrics; nil: none
	// TracerProvider makes a span of each event that is published and whose writer was traced. nil: none; the writer's
	// trace context goes out with the event all the same.
	TracerProvider trace.TracerProvider
	Logger         *slog.Logger // nil: slog.Default()

	quietPoll time.Duration // Poll, in quiet times
}

// Optimistic publishing is what a commit causes at once, without waiting for a poll: in this process, or
// in another by NOTIFY. On failure or timeout the events stay where they are, and leave with the poll.
type Optimistic struct {
	Enabled bool
	Timeout time.Duration // of the first attempt; 0: 500 ms
}

// Retry is what happens to an event that the broker rejects. The events of its key wait behind it, and no
// others do. A broker that fails, or can't be reached, is waited for: that is no event's fault.
type Retry struct {
	MaxAttempts int           // 0: 5
	Initial     time.Duration // before the second attempt; it doubles with each. 0: 1 s
	Max         time.Duration // between two attempts. 0: 1 min
	// Then is what becomes of an event after its last attempt. "": GiveUp.
	Then Verdict
}

// Verdict is what becomes of an event that was rejected too often. Either way it is in the dead letters.
type Verdict string

const (
	GiveUp Verdict = "give up" // its key goes on without it
	Hold   Verdict = "hold"    // its key waits until an operator redrives or drops it
)

const (
	busyPoll    = 5 * time.Millisecond   // while there is something to do
	busyFor     = 100 * time.Millisecond // after there was
	batchBytes  = 1 << 20                // of payloads in one call, above one event
	probeBytes  = 64 << 10               // of those in a call for a part of the broker that took nothing the last time
	windowBytes = 64 << 20
	checkpoint  = 100 * time.Millisecond // between two of a cursor
	brokerFirst = 10 * time.Millisecond  // backoff after a failure of the broker
	brokerMost  = time.Second
	partial     = time.Minute            // since an acknowledgement: what fails then is taken for a part of the broker
	shelf       = 250_000                // events whose bodies may be forgotten, while they wait for a part of the broker
	quietPoll   = 500 * time.Millisecond // in quiet times
	quietAfter  = 10 * time.Second       // without a message
	missedFor   = 10 * time.Minute       // how long a poll that was needed is remembered
	dueMost     = time.Second            // between two looks for what is due
	dueLeast    = 200 * time.Millisecond
	dueLimit    = 1000             // of one look
	keepTick    = time.Second      // housekeeping
	shedTick    = 10 * time.Minute // of the archive
	directTurn  = 10 * time.Second // of a slot of outbox_direct
	directBytes = 8 << 20          // of it, after which its turn is over sooner
)

func (c Config) withDefaults() (Config, error) {
	set := func(d *time.Duration, byDefault time.Duration) {
		if *d == 0 {
			*d = byDefault
		}
	}
	set(&c.Lease, 3*time.Second)
	set(&c.PublishTimeout, 10*time.Second)
	c.quietPoll = c.Poll
	set(&c.Poll, 100*time.Millisecond)
	set(&c.quietPoll, quietPoll)
	set(&c.RotateEvery, 30*time.Second)
	set(&c.Grace, 5*time.Second)
	set(&c.Retry.Initial, time.Second)
	set(&c.Retry.Max, time.Minute)
	if c.Parallel == 0 {
		c.Parallel = 8
	}
	if c.Batch == 0 {
		c.Batch = 500
	}
	if c.Window == 0 {
		c.Window = 16 * c.Batch
	}
	if c.RotateRows == 0 {
		c.RotateRows = 100_000
	}
	if c.Retry.MaxAttempts == 0 {
		c.Retry.MaxAttempts = 5
	}
	if c.Retry.Then == "" {
		c.Retry.Then = GiveUp
	}
	if c.Optimistic == nil {
		c.Optimistic = &Optimistic{Enabled: true}
	}
	o := *c.Optimistic
	set(&o.Timeout, 500*time.Millisecond)
	c.Optimistic = &o
	if c.Name == "" {
		host, _ := os.Hostname()
		c.Name = fmt.Sprintf("%.40s-%d-%s", host, os.Getpid(), uuid.NewString()[:8])
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("relay", c.Name)
	switch {
	case c.Lease < 500*time.Millisecond:
		return c, fmt.Errorf("outbox: Lease is %v, it must be at least 500ms", c.Lease)
	case c.Parallel < 1 || c.Parallel > buckets:
		return c, fmt.Errorf("outbox: Parallel is %d, it must be between 1 and %d", c.Parallel, buckets)
	case c.Batch < 1 || c.Window < c.Batch:
		return c, fmt.Errorf("outbox: Batch is %d and Window %d: Batch must be at least 1, and Window at least Batch", c.Batch, c.Window)
	case c.Retry.MaxAttempts < 1 || c.Retry.Initial < 0 || c.Retry.Max < c.Retry.Initial:
		return c, fmt.Errorf("outbox: Retry is %+v: MaxAttempts must be at least 1, and Max at least Initial", c.Retry)
	case c.Retry.Then != GiveUp && c.Retry.Then != Hold:
		return c, fmt.Errorf("outbox: Retry.Then is %q, it must be %q or %q", c.Retry.Then, GiveUp, Hold)
	case c.PublishTimeout < 0 || o.Timeout < 0 || c.Poll < time.Millisecond || c.Grace < 0 || c.RotateEvery < 0 || c.RotateRows < 1 || c.Archive < 0 || c.MaxPending < 0:
		return c, fmt.Errorf("outbox: PublishTimeout, Optimistic.Timeout, Poll, Grace, RotateRows, RotateEvery, Archive and MaxPending must not be negative")
	}
	return c, nil
}
