package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Offset is how far a partition of a log was dealt with: Next is the first message that was not.
type Offset struct {
	Topic     string
	Partition int
	Next      int64
	// Resets is how often the offset was reset, as Load tells, and Save is to be told.
	Resets int64
}

// ErrReset: an offset was reset since it was loaded, and was not saved. What was counted since says nothing of the log as it is
// now: load again, and read on from there.
var ErrReset = errors.New("inbox: an offset was reset since it was loaded")

// Offsets keeps, in Postgres, how far a consumer has come in the partitions of a log. It stands in for what the broker knows of it: so
// a group whose offsets have expired or were wiped, or a cluster that was restored beside the database, is no reason to read all again or to
// miss anything. Sources of logs take it by their configuration.
//
// An offset is saved after the commits that it tells of. It is behind them at most, and what comes again is a duplicate.
type Offsets struct {
	pool     *pgxpool.Pool
	consumer string
}

// NewOffsets are those of a consumer's name.
func NewOffsets(pool *pgxpool.Pool, consumer string) *Offsets { return &Offsets{pool, consumer} }

// Load returns all that were saved.
func (o *Offsets) Load(ctx context.Context) (all []Offset, err error) {
	rows, err := o.pool.Query(ctx, sql.InboxOffsetLoad, o.consumer)
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", o.consumer, err)
	}
	defer rows.Close()
	for rows.Next() {
		var at Offset
		if err := rows.Scan(&at.Topic, &at.Partition, &at.Next, &at.Resets); err != nil {
			return nil, fmt.Errorf("offsets of %s: %w", o.consumer, err)
		}
		all = append(all, at)
	}
	return all, rows.Err()
}

// Save moves offsets forward. One that is further already stays, whoever comes late. Error: [ErrReset]; those that were not reset are saved
// then.
func (o *Offsets) Save(ctx context.Context, offsets ...Offset) error {
	return o.write(ctx, sql.InboxOffsetSave, offsets)
}

// Reset sets offsets, also back: for a topic that was made anew, or to read again. They are to come from Load, with another Next. A
// consumer that runs notices it when it saves the next time, and reads on from there. What the inbox knows is still a duplicate. Error: [ErrReset].
func (o *Offsets) Reset(ctx context.Context, offsets ...Offset) error {
	return o.write(ctx, sql.InboxOffsetReset, offsets)
}

func (o *Offsets) write(ctx context.Context, statement string, offsets []Offset) error {
	n := len(offsets)
	topics, partitions, next, resets := make([]string, n), make([]int32, n), make([]int64, n), make([]int64, n)
	for i, at := range offsets {
		topics[i], partitions[i], next[i], resets[i] = at.Topic, int32(at.Partition), at.Next, at.Resets
	}
	tag, err := o.pool.Exec(ctx, statement, o.consumer, topics, partitions, next, resets)
	if err == nil && tag.RowsAffected() < int64(n) {
		err = ErrReset
	}
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", o.consumer, err)
	}
	return nil
}
