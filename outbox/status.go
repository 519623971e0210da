package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Status is how an outbox stands. Ages and times to come are in seconds.
type Status struct {
	Pending   int64   `json:"pending"`    // committed and not acknowledged, but for stuck ones
	AtLeast   bool    `json:"at_least"`   // there are more than were counted
	OldestAge float64 `json:"oldest_age"` // of those
	Rate      float64 `json:"rate"`       // events published a second, of late, by all relays

	Topics  []TopicStatus  `json:"topics"`
	Buckets []BucketStatus `json:"buckets"`
	Relays  []RelayStatus  `json:"relays"`
	Stuck   []StuckKey     `json:"stuck"` // at most 1000
	Slots   []SlotStatus   `json:"slots"`

	Dead       int64   `json:"dead"`
	Scheduled  int64   `json:"scheduled"`
	NextDue    float64 `json:"next_due"`    // of those; below 0: overdue
	Direct     int64   `json:"direct"`      // leased to writers that publish them themselves
	MaxPending int64   `json:"max_pending"` // 0: no limit

	Guards Guards `json:"guards"`
}

// TopicStatus is what is pending of a topic.
type TopicStatus struct {
	Topic     string  `json:"topic"`
	Pending   int64   `json:"pending"`
	OldestAge float64 `json:"oldest_age"`
}

// BucketStatus is one of 256 shares of the keys.
type BucketStatus struct {
	Bucket    int     `json:"bucket"`
	Relay     string  `json:"relay"` // "": nobody has it
	Epoch     int64   `json:"epoch"`
	Pending   int64   `json:"pending"`
	OldestAge float64 `json:"oldest_age"`
	StuckKeys int     `json:"stuck_keys"`
	MovedAge  float64 `json:"moved_age"` // since its cursor was written
}

// RelayStatus is a relay that lives, or did a moment ago.
type RelayStatus struct {
	Name      string    `json:"name"`
	Epoch     int64     `json:"epoch"`
	StartedAt time.Time `json:"started_at"`
	BeatAge   float64   `json:"beat_age"`
	Alive     bool      `json:"alive"`
	Buckets   int       `json:"buckets"`
	Published int64     `json:"published"`
	Rate      float64   `json:"rate"`
}

// StuckKey is a key that waits for a message which the broker rejects.
type StuckKey struct {
	Key      string    `json:"key"`
	Topic    string    `json:"topic"` // of the first that waits
	EventID  uuid.UUID `json:"event_id"`
	Attempts int       `json:"attempts"`
	Error    string    `json:"error"`
	NextIn   float64   `json:"next_in"` // until the next attempt; below 0: it is due
	Blocked  bool      `json:"blocked"` // there is none, until an operator redrives or drops it
	Waiting  int       `json:"waiting"` // how many, with the first
}

// SlotStatus is a part of the table that is emptied as a whole.
type SlotStatus struct {
	Slot       int     `json:"slot"`
	Current    bool    `json:"current"` // writers write here
	Bytes      int64   `json:"bytes"`
	CurrentAge float64 `json:"current_age,omitempty"`
}

// Guards are what harms the whole server when it grows.
type Guards struct {
	XminAge           int64    `json:"xmin_age"`           // transactions since the oldest snapshot that is held: nothing dead since can be cleaned up
	OldestTransaction float64  `json:"oldest_transaction"` // its age
	Prepared          int64    `json:"prepared"`           // transactions that were prepared, and hang
	NotifyQueue       float64  `json:"notify_queue"`       // 0 to 1; at 1 every commit with NOTIFY fails
	Warnings          []string `json:"warnings"`           // what of this is too much, in words
}

// countMost bounds the counts of GetStatus.
const countMost = 1_000_000

// GetStatus looks how the outbox stands, in one snapshot. Each of its counts stops at a million. Slots are not emptied while it looks.
func GetStatus(ctx context.Context, pool *pgxpool.Pool) (Status, error) {
	return Glance(ctx, pool, countMost)
}

// Glance is GetStatus for whoever looks often: its counts stop at most.
func Glance(ctx context.Context, pool *pgxpool.Pool, most int) (Status, error) {
	s := Status{Topics: []TopicStatus{}, Buckets: []BucketStatus{}, Relays: []RelayStatus{}, Stuck: []StuckKey{}, Slots: []SlotStatus{}}
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql.NoJIT); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sql.OutboxStatusLock); err != nil { // before the first query takes the snapshot
			return err
		}
		for _, part := range []func(context.Context, sql.Querier) error{s.readBuckets, s.readRelays, s.readStuck, s.readSlots, s.readGuards} {
			if err := part(ctx, tx); err != nil {
				return err
			}
		}
		if err := s.readPending(ctx, tx, most); err != nil {
			return err
		}
		return s.readTotals(ctx, tx, most)
	})
	if err != nil {
		return s, fmt.Errorf("status of the outbox: %w", err)
	}
	return s, nil
}

// each calls f for each row, scanned into fields.
func each(ctx context.Context, db sql.Querier, statement string, args []any, fields []any, f func()) error {
	rows, err := db.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, fields, func() error { f(); return nil })
	return err
}

func (s *Status) readBuckets(ctx context.Context, db sql.Querier) error {
	var b BucketStatus
	return each(ctx, db, sql.OutboxStatusBuckets, nil, []any{&b.Bucket, &b.Relay, &b.Epoch, &b.MovedAge, &b.StuckKeys}, func() { s.Buckets = append(s.Buckets, b) })
}

func (s *Status) readPending(ctx context.Context, db sql.Querier, most int) error {
	var t TopicStatus
	var bucket int
	at := map[string]int{}
	return each(ctx, db, sql.OutboxStatusPending, []any{most}, []any{&bucket, &t.Topic, &t.Pending, &t.OldestAge}, func() {
		s.Pending += t.Pending
		s.AtLeast = s.Pending >= int64(most)
		s.OldestAge = max(s.OldestAge, t.OldestAge)
		if bucket < len(s.Buckets) {
			b := &s.Buckets[bucket]
			b.Pending += t.Pending
			b.OldestAge = max(b.OldestAge, t.OldestAge)
		}
		i, ok := at[t.Topic]
		if !ok {
			i = len(s.Topics)
			at[t.Topic] = i
			s.Topics = append(s.Topics, TopicStatus{Topic: t.Topic})
		}
		s.Topics[i].Pending += t.Pending
		s.Topics[i].OldestAge = max(s.Topics[i].OldestAge, t.OldestAge)
	})
}

func (s *Status) readRelays(ctx context.Context, db sql.Querier) error {
	var r RelayStatus
	return each(ctx, db, sql.OutboxStatusRelays, nil, []any{&r.Name, &r.Epoch, &r.StartedAt, &r.BeatAge, &r.Alive, &r.Published, &r.Rate, &r.Buckets}, func() {
		s.Relays = append(s.Relays, r)
		if r.Alive {
			s.Rate += r.Rate
		}
	})
}

func (s *Status) readStuck(ctx context.Context, db sql.Querier) error {
	var k StuckKey
	return each(ctx, db, sql.OutboxStatusStuck, nil, []any{&k.Key, &k.Topic, &k.EventID, &k.Attempts, &k.Error, &k.NextIn, &k.Blocked, &k.Waiting}, func() { s.Stuck = append(s.Stuck, k) })
}

func (s *Status) readSlots(ctx context.Context, db sql.Querier) error {
	var p SlotStatus
	return each(ctx, db, sql.OutboxStatusSlots, nil, []any{&p.Slot, &p.Current, &p.Bytes, &p.CurrentAge}, func() { s.Slots = append(s.Slots, p) })
}

func (s *Status) readTotals(ctx context.Context, db sql.Querier, most int) error {
	return db.QueryRow(ctx, sql.OutboxStatusTotals, most).Scan(&s.Dead, &s.Scheduled, &s.NextDue, &s.MaxPending, &s.Direct)
}

func (s *Status) readGuards(ctx context.Context, db sql.Querier) error {
	g := &s.Guards
	if err := db.QueryRow(ctx, sql.OutboxStatusGuards).Scan(&g.XminAge, &g.OldestTransaction, &g.Prepared, &g.NotifyQueue); err != nil {
		return err
	}
	g.Warnings = g.warn()
	return nil
}

// warn says which guards call for somebody.
func (g *Guards) warn() []string {
	w := []string{}
	if g.XminAge > 1_000_000 {
		w = append(w, fmt.Sprintf("a snapshot is held since %d transactions: dead rows of all tables pile up", g.XminAge))
	}
	if g.OldestTransaction > 600 {
		w = append(w, fmt.Sprintf("a transaction is open since %.0f s", g.OldestTransaction))
	}
	if g.Prepared > 0 {
		w = append(w, fmt.Sprintf("%d prepared transactions wait for their end", g.Prepared))
	}
	if g.NotifyQueue > 0.05 {
		w = append(w, fmt.Sprintf("the queue of NOTIFY is %.0f %% full: a listener does not listen", 100*g.NotifyQueue))
	}
	return w
}
