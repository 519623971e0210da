package outbox

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// loop is the life of one session. All its state belongs to one goroutine, which decides; others act: one on
// the connection, one for each call of the publisher, one that beats.
//
//	           ┌────────────── beats: how many buckets are ours to have
//	           ▼
//	wakes ─► loop ──── op ───► session      one statement, or a read of all spans
//	         ▲ ▲ └─── batch ─► publisher    one call a lane
//	         │ └────── apply ─────┤
//	         └─────── answer ─────┘
type loop struct {
	r   *Relay
	s   *session
	cfg Config

	ops     chan op
	applies chan applied
	answers chan answer
	beats   chan beat
	busy    bool // an op is under way

	spans []*span
	old   []*span // put together with another, which is not on record yet
	lanes []*lane
	all   []*lane          // those, and the lanes aside of them
	holds map[string]*hold // :: key → what was rejected of it
	skip  map[int64]bool   // ids in the stream that are in outbox_stuck, or have been

	known    map[int64]bool // cursors, those of spans that are being merged too
	leaving  [buckets]bool  // to be given away: their holds rest
	marks    []*page        // whose turn has come, in order
	markOf   map[*page]*span
	surplus  int  // buckets to give away
	load     bool // cursors were taken
	lastBeat time.Time
	lastID   int64 // drawn when the last read began

	outstanding, bytes int       // read and not done, but for
	shelved            int       // those whose bodies were forgotten
	bare               []*lane   // with such events in their batch, which is to be read again
	ackedAt            time.Time // when the broker took something last

	nextRead  time.Time
	lastRead  time.Duration // how long the last one took
	readEnd   time.Time     // when it ended
	busyUntil time.Time     // poll fast until then
	missedAt  time.Time     // when a poll last found what no wake had told of
	woken     bool          // since the last read began
	nextSave  time.Time
	holdsAt   time.Time // when holds are worth a look; zero: no time
	refreshAt time.Time // when to look what operators did to holds

	stop     context.CancelFunc // of calls that are under way
	calling  context.Context
	calls    sync.WaitGroup
	stopping bool // nothing is read any more
	abandon  bool // and nothing sent
}

// op acts on the session and returns what is to be done with the outcome, by the loop.
type op func(ctx context.Context, s *session) (apply func(), err error)

type applied struct {
	apply func()
	err   error
}

// answer is what the publisher said to a lane's batch.
type answer struct {
	lane  *lane
	errs  []error
	eager bool
	late  bool // it took longer than it may
}

// beat is what a heartbeat learned. at is when it was sent.
type beat struct {
	at    time.Time
	want  int // buckets that are ours by right
	mine  int // that are ours on record, before any were taken
	taken int
	err   error
}

func newLoop(r *Relay, s *session) *loop {
	l := &loop{
		r: r, s: s, cfg: r.cfg,
		ops: make(chan op), applies: make(chan applied, 1), answers: make(chan answer, 2*r.cfg.Parallel), beats: make(chan beat),
		holds: map[string]*hold{}, skip: map[int64]bool{}, known: map[int64]bool{}, markOf: map[*page]*span{},
		lastBeat: time.Now(),
	}
	for range r.cfg.Parallel {
		x := newLane()
		l.lanes = append(l.lanes, x)
		l.all = append(l.all, x, x.aside)
	}
	return l
}

// run works until the session or the lease is lost (an error), or ctx ends. No call is under way when it returns.
func (l *loop) run(ctx context.Context) error {
	lasting, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	l.calling, l.stop = context.WithCancel(lasting)
	var helpers sync.WaitGroup
	helpers.Go(func() { l.act(lasting) })
	helpers.Go(func() { l.beat(lasting) })
	err := l.decide(ctx)
	l.stop()
	l.calls.Wait()
	end()
	close(l.ops)
	helpers.Wait()
	return err
}

// act runs ops on the session, one at a time.
func (l *loop) act(ctx context.Context) {
	for f := range l.ops {
		bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
		apply, err := f(bounded, l.s)
		cancel()
		l.applies <- applied{apply, err}
	}
}

// beat says that this relay lives, and takes buckets that are its to have, until ctx ends. It has a connection
// of its own: a long read must not make a dead relay of this one.
func (l *loop) beat(ctx context.Context) {
	tick := time.NewTicker(l.cfg.Lease / 6)
	defer tick.Stop()
	last, lastAt := l.r.published.Load(), time.Now()
	for {
		b := beat{at: time.Now()}
		published := l.r.published.Load()
		rate := 0.0
		if d := b.at.Sub(lastAt).Seconds(); d > 0 {
			rate = float64(published-last) / d
		}
		last, lastAt = published, b.at
		bounded, cancel := context.WithTimeout(ctx, l.cfg.Lease)
		var relays, rank, free int
		rows, err := l.r.own.Query(bounded, sql.OutboxBeat, l.s.epoch, published, rate)
		b.err = errFenced // no row
		if err == nil {
			for rows.Next() {
				b.err = rows.Scan(&relays, &rank, &b.mine, &free)
			}
			err = rows.Err()
		}
		if err != nil {
			b.err = err
		}
		if b.err == nil {
			b.want = share(buckets, relays, rank)
			if n := min(free, b.want-b.mine); n > 0 {
				failpoint.Hit("outbox.take.before")
				b.err = l.r.own.QueryRow(bounded, sql.OutboxTake, l.s.epoch, n).Scan(&b.taken)
				failpoint.Hit("outbox.take.after")
			}
		}
		cancel()
		select {
		case l.beats <- b:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// decide is the loop itself.
func (l *loop) decide(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	quit := ctx.Done()
	var grace <-chan time.Time
	for {
		now := time.Now()
		// Others take the buckets over when the lease has ended; this one stops a little before.
		if now.Sub(l.lastBeat) > l.cfg.Lease*9/10 {
			return errFenced
		}
		l.advance()
		wait := l.dispatch(now)
		if !l.busy {
			if f := l.next(now); f != nil {
				l.busy = true
				l.ops <- f
			} else if l.stopping && l.quiet() {
				return nil
			}
		}
		if !l.busy && !l.stopping {
			wait = min(wait, l.pause(now))
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case a := <-l.applies:
			l.busy = false
			if a.err != nil {
				return a.err
			}
			a.apply()
		case a := <-l.answers:
			l.answered(a)
		case b := <-l.beats:
			if err := l.beaten(ctx, b); err != nil {
				return err
			}
		case <-l.r.wakes:
			l.woken = true
			l.readBy(l.rested())
		case <-grace:
			l.abandon = true
			l.stop()
		case <-quit:
			quit, l.stopping = nil, true
			l.r.health.stopping.Store(true)
			grace = time.After(l.cfg.Grace)
		}
	}
}

// quiet says that no call is under way, and none will be while stopping: what was read has left, or it must stay because
// the broker fails. A page that is left half done comes twice.
func (l *loop) quiet() bool {
	return !slices.ContainsFunc(l.all, func(x *lane) bool {
		return x.inFlight != nil || len(x.queue) > 0 && !l.abandon && x.failures == 0
	})
}

// readBy brings the next read forward.
func (l *loop) readBy(t time.Time) {
	if t.Before(l.nextRead) {
		l.nextRead = t
	}
}

// rested is when a wake may cause a read: the database is not to be busy with nothing else.
func (l *loop) rested() time.Time { return l.readEnd.Add(min(l.lastRead, 2*time.Millisecond)) }

// pause is how long nothing happens by itself on the session.
func (l *loop) pause(now time.Time) time.Duration {
	wait := time.Second
	earlier := func(t time.Time) {
		if !t.IsZero() {
			wait = min(wait, max(0, t.Sub(now)))
		}
	}
	earlier(l.holdsAt)
	earlier(l.refreshAt)
	if len(l.spans) > 0 && l.room() > 0 {
		earlier(l.nextRead)
	}
	if l.dirty() {
		earlier(l.nextSave)
	}
	return max(wait, 100*time.Microsecond)
}

func (l *loop) dirty() bool {
	dirty := func(s *span) bool { return s.dirty }
	return slices.ContainsFunc(l.spans, dirty) || slices.ContainsFunc(l.old, dirty)
}

// room is how many events may be read now; none until there is room for a batch.
func (l *loop) room() int {
	room := l.cfg.Window - l.outstanding
	if room < l.cfg.Batch || l.bytes > windowBytes {
		return 0
	}
	return room
}

// beaten takes in a heartbeat.
func (l *loop) beaten(ctx context.Context, b beat) error {
	switch {
	case b.err == errFenced:
		return b.err
	case b.err != nil:
		l.r.log.WarnContext(ctx, "a heartbeat failed", "error", b.err)
		return nil
	}
	l.lastBeat = b.at
	l.r.health.beatAt.Store(b.at.UnixNano())
	l.r.metrics.taken.Add(float64(b.taken))
	have := 0
	for _, s := range l.spans {
		have += len(s.buckets)
	}
	// If the answer to an earlier taking got lost, they are ours on record, and nobody would publish them.
	l.load = l.load || b.taken > 0 || b.mine > have && !failpoint.Mutant("outbox.taken-unheard")
	l.surplus = max(0, have-b.want)
	l.measure()
	return nil
}

// measure sets the gauges.
func (l *loop) measure() {
	have, behind := 0, false
	for _, s := range l.spans {
		have += len(s.buckets)
		behind = behind || !s.complete()
	}
	pending := l.outstanding + l.shelved
	if behind && len(l.spans) > 0 {
		pending += int(max(0, l.lastID-l.spans[0].read.last)) * have / buckets
	}
	var lag time.Duration
	now := time.Now()
	for _, x := range l.all {
		for _, list := range [][]*item{x.inFlight, x.queue} {
			if len(list) > 0 {
				lag = max(lag, now.Sub(list[0].readAt)+list[0].age)
			}
		}
	}
	m := l.r.metrics
	m.pending.Set(float64(pending))
	m.outstanding.Set(float64(l.outstanding))
	m.lag.Set(seconds(lag))
	m.stuck.Set(float64(len(l.holds)))
	m.buckets.Set(float64(have))
}

// advance moves spans over what is done, and finds marks whose turn has come.
func (l *loop) advance() {
	for _, s := range slices.Concat(l.spans, l.old) {
		if mark := s.advance(); mark != nil && l.markOf[mark] == nil {
			l.markOf[mark] = s
			l.marks = append(l.marks, mark)
		}
	}
}

// next is what the session is to do now; nil: nothing. First what frees others, then what is to be on
// record before anything else happens, reading last.
func (l *loop) next(now time.Time) op {
	if len(l.bare) > 0 {
		return l.fetching()
	}
	if f := l.nextMark(); f != nil {
		return f
	}
	if f := l.nextHold(now); f != nil {
		return f
	}
	if l.stopping {
		if l.quiet() && l.dirty() {
			return l.saving(now)
		}
		return nil
	}
	if l.load {
		l.load = false
		return l.loading()
	}
	l.giveAway()
	if l.dirty() && !now.Before(l.nextSave) {
		return l.saving(now)
	}
	if len(l.spans) > 0 && !now.Before(l.nextRead) {
		if l.room() == 0 {
			l.shelve()
		}
		if l.room() > 0 {
			return l.reading(now)
		}
	}
	return nil
}

// saving persists how far spans have been published.
func (l *loop) saving(now time.Time) op {
	var cursors []int64
	var to []position
	for _, s := range slices.Concat(l.spans, l.old) {
		if s.dirty {
			cursors, to = append(cursors, s.cursor), append(to, s.acked)
			s.dirty = false // what follows makes it so again; an error ends the session
		}
	}
	l.nextSave = now.Add(checkpoint)
	return func(ctx context.Context, s *session) (func(), error) {
		return func() {}, s.save(ctx, cursors, to)
	}
}

// loading begins to work on cursors that were taken.
func (l *loop) loading() op {
	known := maps.Clone(l.known)
	return func(ctx context.Context, s *session) (func(), error) {
		failpoint.Hit("outbox.load.before")
		spans, err := s.cursors(ctx, known)
		if err != nil {
			return nil, err
		}
		var list []int16
		for _, p := range spans {
			list = append(list, p.buckets...)
		}
		stuck, err := s.stuck(ctx, list)
		return func() {
			for _, p := range spans {
				l.spans = append(l.spans, p)
				l.known[p.cursor] = true
			}
			l.stuck(stuck)
			l.own()
			l.nextRead = time.Now()
		}, err
	}
}

func (l *loop) lane(bucket int16) *lane { return l.lanes[int(bucket)%len(l.lanes)] }

// held is the hold on an event's key; nil: none.
func (l *loop) held(it *item) *hold {
	if len(l.holds) == 0 || failpoint.Mutant("outbox.key-not-held") {
		return nil
	}
	return l.holds[holdName(it.event.Key, it.event.Sequence)]
}

// done says that an event of the stream needs no more attention.
func (l *loop) done(it *item) {
	it.page.left--
	if it.shelved {
		l.shelved--
	} else {
		l.outstanding--
		l.bytes -= len(it.event.Payload)
	}
	// What was read at once lies in one array: one that waits would keep the bodies of all.
	it.event.Payload, it.event.Headers = nil, nil
}

func jitter() float64 { return rand.Float64() }
