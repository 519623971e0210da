package outbox

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
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

	outstanding, bytes int // read and not done

	nextRead  time.Time
	lastRead  time.Duration // how long the last one took
	readEnd   time.Time     // when it ended
	busyUntil time.Time     // poll fast until then
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
	begun time.Time
	late  bool // it took longer than it may
}

// beat is what a heartbeat learned. at is when it was sent.
type beat struct {
	at    time.Time
	want  int // buckets that are ours by right
	taken int
	err   error
}

func newLoop(r *Relay, s *session) *loop {
	l := &loop{
		r: r, s: s, cfg: r.cfg,
		ops: make(chan op), applies: make(chan applied, 1), answers: make(chan answer, r.cfg.Parallel), beats: make(chan beat),
		holds: map[string]*hold{}, skip: map[int64]bool{}, known: map[int64]bool{}, markOf: map[*page]*span{},
		lastBeat: time.Now(),
	}
	for range r.cfg.Parallel {
		l.lanes = append(l.lanes, &lane{})
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
		var relays, rank, mine, free int
		rows, err := l.r.own.Query(bounded, sql.OutboxBeat, l.s.epoch, published, rate)
		b.err = errFenced // no row
		if err == nil {
			for rows.Next() {
				b.err = rows.Scan(&relays, &rank, &mine, &free)
			}
			err = rows.Err()
		}
		if err != nil {
			b.err = err
		}
		if b.err == nil {
			b.want = share(buckets, relays, rank)
			if n := min(free, b.want-mine); n > 0 {
				b.err = l.r.own.QueryRow(bounded, sql.OutboxTake, l.s.epoch, n).Scan(&b.taken)
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
			grace = time.After(l.cfg.Grace)
		}
	}
}

// quiet says that no call is under way, and none will be while stopping: what was read has left, or it must stay because
// the broker fails. A page that is left half done comes twice.
func (l *loop) quiet() bool {
	return !slices.ContainsFunc(l.lanes, func(x *lane) bool {
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
	l.load = l.load || b.taken > 0
	have := 0
	for _, s := range l.spans {
		have += len(s.buckets)
	}
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
	pending := l.outstanding
	if behind && len(l.spans) > 0 {
		pending += int(max(0, l.lastID-l.spans[0].read.last)) * have / buckets
	}
	var lag time.Duration
	now := time.Now()
	for _, x := range l.lanes {
		for _, list := range [][]*item{x.inFlight, x.queue} {
			if len(list) > 0 {
				lag = max(lag, now.Sub(list[0].readAt)+list[0].age)
			}
		}
	}
	m := l.r.metrics
	m.pending.Set(float64(pending))
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
	if len(l.spans) > 0 && !now.Before(l.nextRead) && l.room() > 0 {
		return l.reading(now)
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

// own publishes which buckets this relay sees to.
func (l *loop) own() {
	var owned [buckets]bool
	for _, s := range l.spans {
		for _, b := range s.buckets {
			owned[b] = true
		}
	}
	l.r.owned.Store(&owned)
}

// giveAway marks the place in the stream up to which surplus buckets are still this relay's.
func (l *loop) giveAway() {
	changed := false
	for l.surplus > 0 && len(l.spans) > 0 {
		s := slices.MaxFunc(l.spans, func(a, b *span) int { return len(a.buckets) - len(b.buckets) })
		n := min(l.surplus, len(s.buckets))
		if n == 0 {
			break
		}
		given := slices.Clone(s.buckets[len(s.buckets)-n:])
		s.buckets = slices.Clone(s.buckets[:len(s.buckets)-n])
		for _, b := range given {
			l.leaving[b] = true
		}
		s.pages = append(s.pages, &page{end: s.read, release: given})
		l.surplus -= n
		changed = true
	}
	if changed {
		l.own()
		l.advance()
	}
}

// nextMark acts on the first mark for which all is ready.
func (l *loop) nextMark() op {
	for _, mark := range l.marks {
		if l.ready(mark) {
			if mark.absorb != nil {
				return l.merging(mark)
			}
			return l.releasing(mark)
		}
	}
	return nil
}

// ready: a mark's turn has come, but it may have to wait for others all the same.
func (l *loop) ready(mark *page) bool {
	if mark.absorb != nil {
		return len(mark.absorb.pages) == 0
	}
	for _, h := range l.holds {
		if slices.Contains(mark.release, h.bucket) && !h.idle() {
			return false
		}
	}
	return true
}

// passed takes a mark away.
func (l *loop) passed(mark *page) {
	s := l.markOf[mark]
	delete(l.markOf, mark)
	l.marks = slices.DeleteFunc(l.marks, func(m *page) bool { return m == mark })
	s.pages = s.pages[1:]
	if len(s.buckets) == 0 && len(s.pages) == 0 {
		l.spans = slices.DeleteFunc(l.spans, func(x *span) bool { return x == s })
	}
}

// merging puts a span's buckets under the cursor of the one it was joined to, which must be on record as
// having come as far.
func (l *loop) merging(mark *page) op {
	into, from := l.markOf[mark], mark.absorb
	into.dirty, from.dirty = false, false
	return func(ctx context.Context, s *session) (func(), error) {
		if err := s.save(ctx, []int64{into.cursor}, []position{mark.end}); err != nil {
			return nil, err
		}
		return func() {
			delete(l.known, from.cursor)
			l.old = slices.DeleteFunc(l.old, func(x *span) bool { return x == from })
			l.passed(mark)
		}, s.merge(ctx, from.cursor, into.cursor)
	}
}

// releasing gives buckets away.
func (l *loop) releasing(mark *page) op {
	cursor := l.markOf[mark].cursor
	return func(ctx context.Context, s *session) (func(), error) {
		return func() {
			for _, b := range mark.release {
				l.leaving[b] = false
			}
			maps.DeleteFunc(l.holds, func(_ string, h *hold) bool { return slices.Contains(mark.release, h.bucket) })
			l.passed(mark)
		}, s.release(ctx, cursor, mark.release, mark.end)
	}
}

// reading reads the next page of every span.
func (l *loop) reading(now time.Time) op {
	var wants []want
	for _, s := range l.spans {
		if len(s.buckets) > 0 {
			wants = append(wants, want{s, s.buckets, s.read})
		}
	}
	if len(wants) == 0 {
		l.nextRead = now.Add(l.cfg.Poll)
		return nil
	}
	limit := max(1, min(l.room(), 4*l.cfg.Batch)/len(wants))
	woken, idle := l.woken, now.After(l.busyUntil) && !l.readEnd.IsZero()
	l.woken = false
	l.nextRead = now.Add(time.Hour) // apply says when; a wake meanwhile says sooner
	return func(ctx context.Context, s *session) (func(), error) {
		f, err := s.read(ctx, wants, limit)
		took := time.Since(now)
		return func() {
			l.lastRead, l.readEnd = took, time.Now()
			n := l.read(wants, f, woken)
			l.paceReads(n, woken, idle)
		}, err
	}
}

// read takes in what was read, and returns how many events that is.
func (l *loop) read(wants []want, f found, woken bool) (n int) {
	l.lastID = f.last
	var level []*span // those at the same snapshot now
	for i, w := range wants {
		s := w.span
		s.read = f.to[i]
		n += len(f.items[i])
		p := &page{end: s.read}
		for j := range f.items[i] {
			it := &f.items[i][j]
			if l.skip[it.event.Sequence] {
				continue
			}
			it.page, it.eager = p, woken && l.cfg.Optimistic.Enabled
			p.left++
			l.outstanding++
			l.bytes += len(it.event.Payload)
			if h := l.held(it); h != nil {
				h.waiting = append(h.waiting, it)
				l.holdsAt = time.Now()
				continue
			}
			l.lane(it.bucket).queue = append(l.lane(it.bucket).queue, it)
		}
		switch k := len(s.pages); {
		case len(f.items[i]) > 0 || k > 0 && s.pages[k-1].mark():
			s.pages = append(s.pages, p)
		case k > 0:
			s.pages[k-1].end = p.end // nothing of ours lies between
		}
		if s.complete() && s.read.prev == f.cur {
			level = append(level, s)
		}
	}
	if len(level) > 1 {
		l.join(level)
	}
	return n
}

// join puts spans that have come equally far together.
func (l *loop) join(level []*span) {
	into := level[0]
	for _, s := range level[1:] {
		into.buckets = append(slices.Clip(into.buckets), s.buckets...)
		into.pages = append(into.pages, &page{end: into.read, absorb: s})
		l.spans = slices.DeleteFunc(l.spans, func(x *span) bool { return x == s })
		l.old = append(l.old, s)
	}
}

// paceReads says when to read again.
func (l *loop) paceReads(n int, woken, idle bool) {
	now := time.Now()
	if n > 0 {
		l.busyUntil = now.Add(busyFor)
		if idle && !woken {
			l.missed()
		}
	}
	next := now.Add(l.cfg.Poll)
	switch {
	case slices.ContainsFunc(l.spans, func(s *span) bool { return !s.complete() }):
		next = now
	case now.Before(l.busyUntil):
		next = now.Add(min(busyPoll, l.cfg.Poll))
	}
	if l.woken { // while it was read
		next = l.rested()
	}
	l.nextRead = next
}

// missed counts a poll that found what no wake had told of.
func (l *loop) missed() {
	if !l.cfg.Optimistic.Enabled {
		return
	}
	l.r.metrics.missed.Inc()
	if l.r.woken.Load() <= 1 && !l.r.told.Swap(true) { // one is our own, when LISTEN began
		l.r.log.Info("messages are found by the poll only: their writers' pools lack sql.WakeOnCommit, or they don't use sql.InTx")
	}
}

func (l *loop) lane(bucket int16) *lane { return l.lanes[int(bucket)%len(l.lanes)] }

// held is the hold on an event's key; nil: none.
func (l *loop) held(it *item) *hold {
	if len(l.holds) == 0 {
		return nil
	}
	return l.holds[holdName(it.event.Key, it.event.Sequence)]
}

// done says that an event of the stream needs no more attention.
func (l *loop) done(it *item) {
	it.page.left--
	l.outstanding--
	l.bytes -= len(it.event.Payload)
}

func jitter() float64 { return rand.Float64() }
