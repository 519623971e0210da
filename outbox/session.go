package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// session is the one connection that snapshots are taken on, and on which cursors are written. A snapshot is
// good for the session that took it: after a crash of Postgres transaction ids are handed out again, and an
// old snapshot would take new transactions for seen. So a new session begins with what is persisted. What is
// persisted is good: a transaction that wrote it has a higher id than all that its snapshots see, and if
// it survived a crash, so did they.
type session struct {
	conn    *pgx.Conn
	epoch   int64
	headers map[string]map[string]string // as written :: decoded; most messages have the same
}

// errFenced: others have taken this relay for dead, and its buckets over.
var errFenced = errors.New("outbox: the lease was lost")

// openSession connects. Its commits need not wait for the disk, where not said otherwise: a cursor that a
// crash takes back only means that events are sent again.
func (r *Relay) openSession(ctx context.Context) (*session, error) {
	config := r.directConfig("pgsagaz outbox relay")
	config.RuntimeParams["synchronous_commit"] = "off"
	config.RuntimeParams["jit"] = "off"
	config.RuntimeParams["enable_seqscan"] = "off" // a plan that was made while a slot was empty is kept while it fills, as nothing analyzes it
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, headers: map[string]map[string]string{}}
	if err := s.begin(ctx, r); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) begin(ctx context.Context, r *Relay) error {
	if err := sql.CheckVersion(ctx, r.own); err != nil {
		return err
	}
	var rebased bool
	if err := s.conn.QueryRow(ctx, sql.OutboxRebase).Scan(&rebased); err != nil {
		return err
	}
	if rebased {
		r.log.WarnContext(ctx, "this database was restored from another cluster: all messages that are retained are published again")
	}
	failpoint.Hit("outbox.join.before")
	if err := s.conn.QueryRow(ctx, sql.OutboxJoin, r.cfg.Name, r.cfg.Lease).Scan(&s.epoch); err != nil {
		return err
	}
	failpoint.Hit("outbox.join.after")
	return nil
}

func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// want is a span to be read, as it was when the read was asked for.
type want struct {
	span    *span
	buckets []int16
	from    position
}

// found is what a read found: for each want its events, and how far it has been read by that.
type found struct {
	items [][]item
	to    []position
	cur   string // the snapshot of those that began a new pair
	last  int64  // id that was drawn
}

// read reads the next page of each span, in one snapshot.
func (s *session) read(ctx context.Context, wants []want, limit int) (found, error) {
	f := found{items: make([][]item, len(wants)), to: make([]position, len(wants))}
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	b.Queue(sql.OutboxSnapshot)
	for _, w := range wants {
		if w.from.cur == "" {
			b.Queue(sql.OutboxRead, w.buckets, w.from.prev, limit)
		} else {
			b.Queue(sql.OutboxPage, w.buckets, w.from.prev, w.from.cur, w.from.last, limit)
		}
	}
	b.Queue("COMMIT")
	results := s.conn.SendBatch(ctx, b)
	defer func() { _ = results.Close() }() // the COMMIT is read below
	if _, err := results.Exec(); err != nil {
		return f, err
	}
	var now time.Time
	if err := results.QueryRow().Scan(&f.cur, &now, &f.last); err != nil {
		return f, err
	}
	for i, w := range wants {
		rows, err := results.Query()
		if err == nil {
			f.items[i], err = s.items(rows, now)
		}
		if err != nil {
			return f, err
		}
		f.to[i] = reached(w.from, f.cur, f.items[i], limit)
	}
	_, err := results.Exec()
	return f, err
}

// unchanged says that nothing has committed since any of the spans was read: a snapshot of now is the one that it ended with. Where nothing
// happens that is all an idle poll asks, at a quarter of a read's cost.
func (s *session) unchanged(ctx context.Context, wants []want) (bool, error) {
	var cur string
	var now time.Time
	var last int64
	if err := s.conn.QueryRow(ctx, sql.OutboxSnapshot).Scan(&cur, &now, &last); err != nil {
		return false, err
	}
	return failpoint.Mutant("outbox.idle-poll-blind") || !slices.ContainsFunc(wants, func(w want) bool { return w.from.cur != "" || w.from.prev != cur }), nil
}

// reached is how far a read that began at from has come. With a full page there may be more in the pair.
func reached(from position, cur string, items []item, limit int) position {
	if from.cur != "" {
		cur = from.cur
	}
	last := from.last
	if n := len(items); n > 0 {
		last = items[n-1].event.Sequence
	}
	if len(items) < limit {
		return position{prev: cur, last: last}
	}
	return position{prev: from.prev, cur: cur, last: last}
}

// items reads rows of outbox or outbox_stuck.
func (s *session) items(rows pgx.Rows, now time.Time) ([]item, error) {
	defer rows.Close()
	readAt := time.Now()
	var list []item
	var headers string
	for rows.Next() {
		list = append(list, item{readAt: readAt})
		it := &list[len(list)-1]
		e := &it.event
		if err := rows.Scan(&e.Sequence, &it.bucket, (*[16]byte)(&e.ID), &e.Topic, &e.Key, &e.RoutingKey, &e.Type, &e.Payload, &headers,
			&e.TraceParent, &e.SagaID, &e.Step, &e.CreatedAt, &e.Replayed); err != nil {
			return nil, err
		}
		var err error
		if e.Headers, err = s.decodeHeaders(headers); err != nil {
			return nil, fmt.Errorf("outbox: headers of message %d: %w", e.Sequence, err)
		}
		it.age = now.Sub(e.CreatedAt)
	}
	return list, rows.Err()
}

func (s *session) decodeHeaders(text string) (map[string]string, error) {
	if h, ok := s.headers[text]; ok {
		return h, nil
	}
	h := map[string]string{}
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return nil, err
	}
	if len(s.headers) >= 1000 {
		clear(s.headers)
	}
	s.headers[text] = h
	return h, nil
}

// save persists how far spans have been published.
func (s *session) save(ctx context.Context, cursors []int64, to []position) error {
	failpoint.Hit("outbox.save.before")
	b := &pgx.Batch{}
	for i, id := range cursors {
		b.Queue(sql.OutboxCheckpoint, id, s.epoch, to[i].prev, to[i].cur, to[i].last)
	}
	results := s.conn.SendBatch(ctx, b)
	defer func() { _ = results.Close() }()
	for range cursors {
		tag, err := results.Exec()
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errFenced
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	failpoint.Hit("outbox.save.after")
	return nil
}

// release gives buckets of a cursor away, as far as they have been published.
func (s *session) release(ctx context.Context, cursor int64, list []int16, at position) error {
	failpoint.Hit("outbox.release.before")
	if err := s.fenced(ctx, sql.OutboxRelease, s.epoch, cursor, list, at.prev, at.cur, at.last); err != nil {
		return err
	}
	failpoint.Hit("outbox.release.after")
	return nil
}

// merge puts the buckets of one cursor under another. The other must have been saved as far before.
func (s *session) merge(ctx context.Context, from, into int64) error {
	failpoint.Hit("outbox.merge.before")
	if err := s.fenced(ctx, sql.OutboxMerge, s.epoch, from, into); err != nil {
		return err
	}
	failpoint.Hit("outbox.merge.after")
	return nil
}

func (s *session) fenced(ctx context.Context, statement string, args ...any) error {
	var ok bool
	if err := s.conn.QueryRow(ctx, statement, args...).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return errFenced
	}
	return nil
}

// cursors are those of this relay. known are not looked up again.
func (s *session) cursors(ctx context.Context, known map[int64]bool) (spans []*span, err error) {
	rows, err := s.conn.Query(ctx, sql.OutboxCursors, s.epoch)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p span
		if err := rows.Scan(&p.cursor, &p.buckets, &p.read.prev, &p.read.cur, &p.read.last); err != nil {
			return nil, err
		}
		if !known[p.cursor] {
			p.acked = p.read
			spans = append(spans, &p)
		}
	}
	return spans, rows.Err()
}

// stuckRow is a row of outbox_stuck.
type stuckRow struct {
	id       int64
	bucket   int16
	key      string
	attempts int
	wait     time.Duration
	done     bool
}

// stuck are the rows of outbox_stuck of some buckets, in order.
func (s *session) stuck(ctx context.Context, list []int16) (all []stuckRow, err error) {
	rows, err := s.conn.Query(ctx, sql.OutboxStuckList, list)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r stuckRow, err error) {
		var seconds float64
		err = row.Scan(&r.id, &r.bucket, &r.key, &r.attempts, &seconds, &r.done)
		r.wait = time.Duration(seconds * float64(time.Second))
		return r, err
	})
}

// fetch reads messages of outbox_stuck again.
func (s *session) fetch(ctx context.Context, ids []int64) ([]item, error) {
	rows, err := s.conn.Query(ctx, sql.OutboxStuckRead, ids)
	if err != nil {
		return nil, err
	}
	return s.items(rows, time.Now())
}

// again reads messages of the stream again, which must still be there: the cursor has not passed them.
func (s *session) again(ctx context.Context, ids []int64) (map[int64]Event, error) {
	rows, err := s.conn.Query(ctx, sql.OutboxAgain, ids)
	if err != nil {
		return nil, err
	}
	items, err := s.items(rows, time.Now())
	events := make(map[int64]Event, len(items))
	for _, it := range items {
		events[it.event.Sequence] = it.event
	}
	if err == nil && len(events) != len(ids) {
		err = fmt.Errorf("outbox: of %d messages that wait, only %d are in the table", len(ids), len(events))
	}
	return events, err
}

// put takes messages out of the stream, for good.
func (s *session) put(ctx context.Context, ids []int64) error {
	failpoint.Hit("outbox.put.before")
	tag, err := s.conn.Exec(ctx, sql.OutboxStuckPut, s.epoch, ids)
	if err == nil && tag.RowsAffected() != int64(len(ids)) {
		err = errFenced
	}
	failpoint.Hit("outbox.put.after")
	return err
}

// judge records a verdict.
func (s *session) judge(ctx context.Context, v *verdict, then Verdict) error {
	failpoint.Hit("outbox.judge.before")
	statement, args := sql.OutboxStuckRetry, []any{s.epoch, v.id, v.attempts, v.delay.Seconds(), v.err}
	if v.dead {
		statement, args = sql.OutboxStuckDead, []any{s.epoch, v.id, v.attempts, v.err, then == Hold}
	}
	tag, err := s.conn.Exec(ctx, statement, args...)
	if err == nil && tag.RowsAffected() == 0 {
		err = errFenced
	}
	failpoint.Hit("outbox.judge.after")
	return err
}

// finish records messages of outbox_stuck as published.
func (s *session) finish(ctx context.Context, ids []int64) error {
	failpoint.Hit("outbox.finish.before")
	_, err := s.conn.Exec(ctx, sql.OutboxStuckDone, s.epoch, ids)
	failpoint.Hit("outbox.finish.after")
	return err
}
