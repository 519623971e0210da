package inbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Offset is how far a partition of a log was dealt with: Next is the first message that was not.
type Offset struct {
	Topic     string
	Partition int
	Next      int64
}

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
		if err := rows.Scan(&at.Topic, &at.Partition, &at.Next); err != nil {
			return nil, fmt.Errorf("offsets of %s: %w", o.consumer, err)
		}
		all = append(all, at)
	}
	return all, rows.Err()
}

// Save moves offsets forward. One that is further already stays, whoever comes late.
func (o *Offsets) Save(ctx context.Context, offsets ...Offset) error {
	return o.write(ctx, false, offsets)
}

// Reset sets offsets, also back: for a topic that was made anew, or to read again. What the inbox knows is still a duplicate.
func (o *Offsets) Reset(ctx context.Context, offsets ...Offset) error {
	return o.write(ctx, true, offsets)
}

func (o *Offsets) write(ctx context.Context, reset bool, offsets []Offset) error {
	topics, partitions, next := make([]string, len(offsets)), make([]int32, len(offsets)), make([]int64, len(offsets))
	for i, at := range offsets {
		topics[i], partitions[i], next[i] = at.Topic, int32(at.Partition), at.Next
	}
	if _, err := o.pool.Exec(ctx, sql.InboxOffsetSave, o.consumer, topics, partitions, next, reset); err != nil {
		return fmt.Errorf("offsets of %s: %w", o.consumer, err)
	}
	return nil
}
