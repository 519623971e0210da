package inbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

const (
	defaultHorizon   = 7 * 24 * time.Hour
	defaultRetention = 30 * 24 * time.Hour
)

// ErrRetention: the retention is shorter than what a consumer's broker may deliver again.
var ErrRetention = errors.New("inbox: retention is shorter than a redelivery horizon")

// CleanupOptions tune [Cleanup]. nil and the zero value are the defaults.
type CleanupOptions struct {
	// Retention is how long entries are kept. 0: the longest that a consumer asks for, or 30 days if none does.
	Retention time.Duration
}

// Cleaned is what a [Cleanup] has done.
type Cleaned struct {
	Busy      bool          `json:"busy"` // another cleanup is under way: this one has done nothing
	Retention time.Duration `json:"-"`
	Floor     time.Time     `json:"floor"`   // events before it are refused
	Dropped   []string      `json:"dropped"` // partitions
	Foreign   int64         `json:"foreign"` // entries with ids of other makes that were deleted
	// Behind is how far the deletion of those has come: entries consumed before it are gone. nil: there is nothing to delete.
	Behind  *time.Time `json:"behind,omitempty"`
	Rate    float64    `json:"foreign_per_second"`
	Made    int        `json:"made"` // partitions, ahead of time
	Seconds float64    `json:"seconds"`
}

// Cleanup forgets old entries: whole partitions of UUIDv7s, which takes milliseconds whatever they hold, and
// the others by 5,000 at a time. It makes partitions for the week to come too. Nobody waits for it. It may be called by
// any number of processes, and whatever was interrupted the next one finishes.
//
// First the floor is raised and committed: from then on claims refuse what lies below. Only then the entries
// go. A claim that has read the floor before holds a lock on the table until it ends, and the
// partition is dropped after that.
func Cleanup(ctx context.Context, pool *pgxpool.Pool, opts *CleanupOptions) (Cleaned, error) {
	if opts == nil {
		opts = &CleanupOptions{}
	}
	begun := time.Now()
	r := Cleaned{Dropped: []string{}}
	var err error
	if r.Retention, err = retention(ctx, pool, opts.Retention); err != nil {
		return r, err
	}
	tag, err := pool.Exec(ctx, sql.InboxCleanupLock)
	if err != nil {
		return r, fmt.Errorf("inbox cleanup: %w", err)
	}
	if tag.RowsAffected() == 0 {
		r.Busy = true
		return r, nil
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = pool.Exec(bounded, sql.InboxCleanupUnlock) // otherwise it ends by itself
	}()
	err = errors.Join(r.partitions(ctx, pool), r.foreign(ctx, pool))
	r.Seconds = time.Since(begun).Seconds()
	if err != nil {
		err = fmt.Errorf("inbox cleanup: %w", err)
	}
	return r, err
}

// retention is what was asked for, unless a consumer may get messages again that are older.
func retention(ctx context.Context, pool *pgxpool.Pool, asked time.Duration) (time.Duration, error) {
	rows, err := pool.Query(ctx, sql.InboxRetention)
	if err != nil {
		return 0, err
	}
	type consumer struct {
		Name      string
		Horizon   time.Duration
		Retention *time.Duration
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[consumer])
	if err != nil {
		return 0, err
	}
	given := asked
	for _, c := range all {
		if given > 0 && given < c.Horizon {
			return 0, fmt.Errorf("%w: consumer %s may be sent messages again for %v, so entries cannot be dropped after %v",
				ErrRetention, c.Name, c.Horizon, given)
		}
		if given == 0 && c.Retention != nil {
			asked = max(asked, *c.Retention)
		}
		if given == 0 {
			asked = max(asked, c.Horizon)
		}
	}
	switch {
	case given < 0:
		return 0, fmt.Errorf("inbox: retention %v is negative", given)
	case asked == 0:
		return defaultRetention, nil
	}
	return asked, nil
}

// partitions raises the floor, drops what lies below it, and makes what is to come.
func (r *Cleaned) partitions(ctx context.Context, db sql.Querier) error {
	if err := db.QueryRow(ctx, sql.InboxMakePartitions).Scan(&r.Made); err != nil {
		return err
	}
	var foreignFloor time.Time
	if err := db.QueryRow(ctx, sql.InboxFloorRaise, r.Retention).Scan(&r.Floor, &foreignFloor); err != nil {
		return err
	}
	failpoint.Hit("inbox.floor.raised")
	rows, err := db.Query(ctx, sql.InboxDroppable)
	if err != nil {
		return err
	}
	type partition struct{ Name, State string }
	old, err := pgx.CollectRows(rows, pgx.RowToStructByPos[partition])
	if err != nil {
		return err
	}
	for _, p := range old {
		var statement string
		switch p.State {
		case "false":
			statement = sql.InboxDetach
		case "true":
			statement = sql.InboxDetachFinalize
		}
		if statement != "" {
			if _, err := db.Exec(ctx, strings.ReplaceAll(statement, "consumer_inbox_20200101", p.Name)); err != nil {
				return fmt.Errorf("detach %s: %w", p.Name, err)
			}
		}
		failpoint.Hit("inbox.drop.detached")
		if _, err := db.Exec(ctx, sql.InboxDropPartition, p.Name); err != nil {
			return fmt.Errorf("drop %s: %w", p.Name, err)
		}
		failpoint.Hit("inbox.drop.after")
		r.Dropped = append(r.Dropped, p.Name)
	}
	return nil
}

// foreign deletes entries with ids of other makes, in many short transactions.
func (r *Cleaned) foreign(ctx context.Context, db sql.Querier) error {
	begun := time.Now()
	rows, err := db.Query(ctx, sql.InboxForeignConsumers)
	if err != nil {
		return err
	}
	consumers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, consumer := range consumers {
		for {
			var n int64
			var last *time.Time
			if err := db.QueryRow(ctx, sql.InboxForeignDelete, consumer).Scan(&n, &last); err != nil {
				return err
			}
			if n == 0 {
				break
			}
			failpoint.Hit("inbox.foreign.deleted")
			r.Foreign += n
			if r.Behind == nil || last.After(*r.Behind) {
				r.Behind = last
			}
		}
	}
	if r.Foreign > 0 {
		r.Rate = float64(r.Foreign) / time.Since(begun).Seconds()
	}
	_, err = db.Exec(ctx, sql.InboxFailureCleanup)
	return err
}
