package interleave

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/sql"
)

// note is a message.
func note(payload string) outbox.Message {
	return outbox.Message{Topic: "t", Key: "k", Payload: []byte(payload)}
}

// writes is an act in which messages are published, each by a call of its own, in one transaction that ends so, and that has written something before.
func (w *world) writes(actor int, end func(pgx.Tx, context.Context) error, messages ...outbox.Message) act {
	return act{do: func(ctx context.Context) error {
		tx, err := w.x.actors[actor].pool.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_current_xact_id()"); err != nil {
			_ = tx.Rollback(ctx)
			return err
		}
		for _, m := range messages {
			if err := outbox.Publish(ctx, tx, m); err != nil {
				_ = tx.Rollback(ctx)
				return err
			}
		}
		return end(tx, ctx)
	}}
}

// reader reads the outbox as a relay's session does, with the same statements in the same transactions.
type reader struct {
	epoch int64
	got   *[]string // payloads, in the order in which they would leave for the broker
}

// newReader joins, and takes as many buckets.
func (w *world) newReader(got *[]string, buckets int) *reader {
	w.Helper()
	r := &reader{got: got}
	if err := w.pool.QueryRow(w.Context(), sql.OutboxJoin, "reader", time.Hour).Scan(&r.epoch); err != nil {
		w.Fatal(err)
	}
	w.exec(sql.OutboxTake, r.epoch, buckets)
	return r
}

// span is what a reader has under one cursor.
type span struct {
	cursor    int64
	buckets   []int16
	prev, cur string
	last      int64
}

// limit is how many messages a page has: few, so that a snapshot pair has several.
const limit = 2

// round reads the next page of each of the reader's spans and records how far it has come.
func (r *reader) round(ctx context.Context, pool *pgxpool.Pool) error {
	spans, err := r.spans(ctx, pool)
	if err != nil {
		return err
	}
	for _, s := range spans {
		if err := r.read(ctx, pool, s); err != nil {
			return err
		}
		tag, err := pool.Exec(ctx, sql.OutboxCheckpoint, s.cursor, r.epoch, s.prev, s.cur, s.last)
		if err == nil && tag.RowsAffected() == 0 {
			err = errors.New("the reader has lost its cursor")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) spans(ctx context.Context, pool *pgxpool.Pool) ([]*span, error) {
	rows, err := pool.Query(ctx, sql.OutboxCursors, r.epoch)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*span, error) {
		s := &span{}
		return s, row.Scan(&s.cursor, &s.buckets, &s.prev, &s.cur, &s.last)
	})
}

func (r *reader) read(ctx context.Context, pool *pgxpool.Pool, s *span) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	b := &pgx.Batch{}
	var snapshot string
	n := 0
	b.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	b.Queue(sql.OutboxSnapshot).QueryRow(func(row pgx.Row) error { return row.Scan(&snapshot, nil, nil) })
	read := b.Queue(sql.OutboxRead, s.buckets, s.prev, limit)
	if s.cur != "" {
		read.SQL, read.Arguments = sql.OutboxPage, []any{s.buckets, s.prev, s.cur, s.last, limit}
	}
	read.Query(func(rows pgx.Rows) error {
		for ; rows.Next(); n++ {
			var payload []byte
			if err := rows.Scan(&s.last, nil, nil, nil, nil, nil, nil, &payload, nil, nil, nil, nil, nil, nil); err != nil {
				return err
			}
			*r.got = append(*r.got, string(payload))
		}
		return rows.Err()
	})
	b.Queue("COMMIT")
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if s.cur == "" {
		s.cur = snapshot
	}
	if n < limit { // the pair has been read
		s.prev, s.cur = s.cur, ""
	}
	return nil
}

// drain reads until nothing is left, and says whether all of these were read once each, and those of one writer in their order.
func (w *world) drain(r *reader, wants ...[]string) error {
	for range 6 {
		if err := r.round(w.Context(), w.pool); err != nil {
			return err
		}
	}
	n := 0
	for _, want := range wants {
		n += len(want)
		read := slices.DeleteFunc(slices.Clone(*r.got), func(s string) bool { return !slices.Contains(want, s) })
		if !slices.Equal(read, want) {
			return fmt.Errorf("%q were read, and not %q", *r.got, want)
		}
	}
	if len(*r.got) != n {
		return fmt.Errorf("%q were read, and were not committed", *r.got)
	}
	return nil
}

// TestMergesCursor: two writers draw their ids in one order and commit in another, and a third rolls back, while a reader's cursor passes.
func TestMergesCursor(t *testing.T) {
	w := newWorld(t)
	var got []string
	r := w.newReader(&got, 256)
	w.explore(func() race {
		got = nil
		return race{
			acts: []act{
				w.writes(0, pgx.Tx.Commit, note("a1"), note("a2")),
				w.writes(1, pgx.Tx.Commit, note("b1")),
				{do: func(ctx context.Context) error {
					if err := r.round(ctx, w.x.actors[2].pool); err != nil {
						return err
					}
					return r.round(ctx, w.x.actors[2].pool)
				}},
			},
			end: func() error { return w.drain(r, []string{"a1", "a2"}, []string{"b1"}) },
		}
	})
}

// TestMergesSerialize: writers that take the key's lock before they draw ids are read in the order in which they had it.
func TestMergesSerialize(t *testing.T) {
	w := newWorld(t)
	var got []string
	r := w.newReader(&got, 256)
	w.explore(func() race {
		got = nil
		var order []string // as they have committed
		write := func(actor int, payload string) act {
			m := note(payload)
			m.Serialize = true
			return w.writes(actor, func(tx pgx.Tx, ctx context.Context) error {
				err := tx.Commit(ctx)
				order = append(order, payload)
				return err
			}, m)
		}
		return race{
			acts: []act{write(0, "a"), write(1, "b"), {do: func(ctx context.Context) error { return r.round(ctx, w.x.actors[2].pool) }}},
			end:  func() error { return w.drain(r, order) },
		}
	})
}

// TestMergesSlots: a slot of which all was read is emptied, while a writer still takes it for the current one and a reader passes.
func TestMergesSlots(t *testing.T) {
	w := newWorld(t)
	var got []string
	r := w.newReader(&got, 256)
	w.explore(func() race {
		if err := pgx.BeginFunc(w.Context(), w.pool, func(tx pgx.Tx) error { return outbox.Publish(w.Context(), tx, note("before")) }); err != nil {
			w.Fatal(err)
		}
		if err := r.round(w.Context(), w.pool); err != nil {
			w.Fatal(err)
		}
		got = nil
		return race{
			acts: []act{
				w.writes(0, pgx.Tx.Commit, note("a")),
				{do: func(ctx context.Context) error { return r.round(ctx, w.x.actors[1].pool) }},
				{do: func(ctx context.Context) error {
					for range 2 { // goes on to the next slot; empties the one before
						if _, err := w.x.actors[2].pool.Exec(ctx, sql.OutboxRotate, 0, time.Duration(0), false); err != nil {
							return err
						}
					}
					return nil
				}},
			},
			end: func() error { return w.drain(r, []string{"a"}) },
		}
	})
}

// TestMergesHandover: a relay gives its buckets away, and another takes what is free, while a message is written.
func TestMergesHandover(t *testing.T) {
	w := newWorld(t)
	var got []string
	w.explore(func() race {
		got = nil
		w.exec(`DELETE FROM pgsagaz.outbox_relay WHERE epoch NOT IN (SELECT epoch FROM pgsagaz.outbox_cursor WHERE epoch IS NOT NULL)`)
		w.exec(`UPDATE pgsagaz.outbox_cursor SET epoch = NULL`)
		from, to := w.newReader(&got, 256), w.newReader(&got, 256)
		return race{
			acts: []act{
				{do: func(ctx context.Context) error {
					pool := w.x.actors[0].pool
					spans, err := from.spans(ctx, pool)
					if err != nil {
						return err
					}
					for _, s := range spans {
						if err := from.read(ctx, pool, s); err != nil {
							return err
						}
						if _, err := pool.Exec(ctx, sql.OutboxRelease, from.epoch, s.cursor, s.buckets, s.prev, s.cur, s.last); err != nil {
							return err
						}
					}
					return nil
				}},
				{do: func(ctx context.Context) error {
					if _, err := w.x.actors[1].pool.Exec(ctx, sql.OutboxTake, to.epoch, 256); err != nil {
						return err
					}
					return to.round(ctx, w.x.actors[1].pool)
				}},
				w.writes(2, pgx.Tx.Commit, note("c1"), note("c2")),
			},
			end: func() error {
				w.exec(sql.OutboxTake, to.epoch, 256)
				return w.drain(to, []string{"c1", "c2"})
			},
		}
	})
}

// aside is a broker that notes what its writer has published.
type aside struct {
	outbox.Publisher
	mu   sync.Mutex
	sent bool
}

// Publish is of outbox.Publisher.
func (a *aside) Publish(ctx context.Context, events []outbox.Event) []error {
	a.mu.Lock()
	a.sent = true
	a.mu.Unlock()
	return a.Publisher.Publish(ctx, events)
}

func (a *aside) has() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent
}

// direct is a message that its writer publishes by itself, and all that comes near it.
type direct struct {
	*world
	broker    *aside
	committed bool // before the act that looks at it began its next statement
}

// newDirect begins with empty tables: what others have left there is of other merges.
func (w *world) newDirect() *direct {
	w.Helper()
	w.exec(`TRUNCATE pgsagaz.outbox, pgsagaz.outbox_direct`)
	w.exec(`UPDATE pgsagaz.outbox_state SET direct_slot = 0`)
	return &direct{world: w, broker: &aside{Publisher: memorypub.New(memorypub.Config{})}}
}

// commits writes the message, and returns what sends it.
func (d *direct) commits(ctx context.Context, actor int) (send func(context.Context) error, err error) {
	pool := d.x.actors[actor].pool
	writer, err := outbox.NewDirect(pool, d.broker, outbox.DirectConfig{Lease: time.Hour})
	if err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
		send, err = writer.PublishAfterCommit(ctx, tx, note("direct"))
		return err
	})
	d.committed = true
	return send, err
}

// sends is what its writer does after the commit. That it comes too late is no error.
func sends(ctx context.Context, send func(context.Context) error) error {
	if err := send(ctx); !errors.Is(err, outbox.ErrNotSent) {
		return err
	}
	return nil
}

// tend is an act in which the lease of all messages ends, and a relay puts them into the stream and empties their table.
func (d *direct) tend(actor int) act {
	return act{do: func(ctx context.Context) error {
		pool := d.x.actors[actor].pool
		if _, err := pool.Exec(ctx, `UPDATE pgsagaz.outbox_direct SET leased_until = '-infinity'`); err != nil {
			return err
		}
		for range 2 { // moves, and ends the turn of the slot; empties it
			if _, err := pool.Exec(ctx, sql.OutboxDirectTend, 1000, time.Duration(0), 1<<30); err != nil {
				return err
			}
		}
		return nil
	}}
}

// kept: what was committed has been sent, or is in one of the tables, once.
func (d *direct) kept() error {
	var n int
	err := d.pool.QueryRow(d.Context(), `SELECT (SELECT count(*) FROM pgsagaz.outbox) + (SELECT count(*) FROM pgsagaz.outbox_direct)`).Scan(&n)
	if err == nil && (n > 1 || n == 0 && !d.broker.has()) {
		err = fmt.Errorf("the message is in the tables %d times; sent by its writer: %v", n, d.broker.has())
	}
	return err
}

// TestMergesDirect: a message is written, committed and sent by its writer, while its lease ends and a relay moves it and empties its table.
func TestMergesDirect(t *testing.T) {
	w := newWorld(t)
	w.explore(func() race {
		d := w.newDirect()
		return race{
			acts: []act{
				{do: func(ctx context.Context) error {
					send, err := d.commits(ctx, 0)
					if err != nil {
						return err
					}
					return sends(ctx, send)
				}},
				d.tend(1),
				w.writes(2, pgx.Tx.Rollback, note("never")),
			},
			end: d.kept,
		}
	})
}

// TestMergesDirectStatus: a status that is read meanwhile counts the message once, wherever it is.
func TestMergesDirectStatus(t *testing.T) {
	w := newWorld(t)
	w.explore(func() race {
		d := w.newDirect()
		send, err := d.commits(w.Context(), 0)
		if err != nil {
			w.Fatal(err)
		}
		w.exec(`UPDATE pgsagaz.outbox_state SET direct_slot = 1 - direct_slot`) // the turn of the message's slot has ended
		return race{
			acts: []act{
				{do: func(ctx context.Context) error { return sends(ctx, send) }},
				d.tend(1),
				{do: func(ctx context.Context) error {
					s, err := outbox.GetStatus(ctx, w.x.actors[2].pool)
					if n := s.Pending + s.Direct; err == nil && (n > 1 || n == 0 && !d.broker.has()) {
						err = fmt.Errorf("%d are pending and %d at their writers, and there is one", s.Pending, s.Direct)
					}
					return err
				}},
			},
			end: d.kept,
		}
	})
}
