package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

const (
	upkeepEvery = time.Hour
	lagEvery    = 5 * time.Second
	lookEvery   = time.Second // for redrives
)

// upkeep makes partitions ahead and cleans up, again and again, asks for the lag, and forgets failures that are over.
func (c *Consumer) upkeep(ctx context.Context) {
	var whole time.Time
	for {
		if !time.Now().Before(whole) {
			if err := c.maintain(ctx); err == nil {
				whole = time.Now().Add(upkeepEvery/2 + rand.N(upkeepEvery/2))
			} else if ctx.Err() == nil {
				c.log.WarnContext(ctx, "the inbox's upkeep failed; it is tried again", "error", err)
			}
		}
		if lagger, ok := c.source.(Lagger); ok {
			bounded, cancel := context.WithTimeout(ctx, lagEvery)
			lag, err := lagger.Lag(bounded)
			cancel()
			if err == nil {
				c.metrics.lag.Set(float64(lag))
			}
		}
		_, _ = c.pool.Exec(ctx, sql.InboxFailureStale, c.cfg.Name) // the next look finds them too
		if pause(ctx, lagEvery) != nil {
			return
		}
	}
}

func (c *Consumer) maintain(ctx context.Context) error {
	var retention *time.Duration
	if c.cfg.Retention > 0 {
		retention = &c.cfg.Retention
	}
	if _, err := c.pool.Exec(ctx, sql.InboxConsumerPut, c.cfg.Name, c.cfg.Horizon, retention); err != nil {
		return err
	}
	if retention == nil {
		_, err := c.pool.Exec(ctx, sql.InboxMakePartitions)
		return err
	}
	r, err := Cleanup(ctx, c.pool, nil)
	if err == nil && (len(r.Dropped) > 0 || r.Foreign > 0) {
		c.log.InfoContext(ctx, "old entries of the inbox are gone", "partitions", r.Dropped, "foreign", r.Foreign, "floor", r.Floor)
	}
	return err
}

// redrives puts the dead letters that are to be tried again into the lanes.
func (c *Consumer) redrives(ctx context.Context) {
	for {
		if err := c.redriveSome(ctx); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "cannot look for dead letters to redrive; trying again", "error", err)
		}
		if pause(ctx, jitter(lookEvery)) != nil {
			return
		}
	}
}

func (c *Consumer) redriveSome(ctx context.Context) error {
	c.mu.Lock()
	busy := slices.Collect(maps.Keys(c.redriving))
	c.mu.Unlock()
	if len(busy) >= c.cfg.MaxInFlight {
		return nil
	}
	if busy == nil {
		busy = []int64{}
	}
	rows, err := c.pool.Query(ctx, sql.InboxDeadWanted, c.cfg.Name, busy)
	if err != nil {
		return err
	}
	items, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*item, error) {
		var id int64
		var entry string
		var m Message
		var headers []byte
		var sent *time.Time
		err := row.Scan(&id, &entry, &m.Attempt, &m.ID, &m.Source, &m.Topic, &m.Key, &m.Type, &m.Payload, &headers, &m.TraceParent, &sent)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(headers, &m.Headers); err != nil {
			return nil, err
		}
		if sent != nil {
			m.Time = *sent
		}
		it, err := newItem(Delivery{Message: m})
		it.dead, it.redrive, it.entry = id, uuid.MustParse(m.Attempt), entry
		return it, err
	})
	for _, it := range items {
		if err := c.decodeDead(ctx, it); err != nil {
			c.log.WarnContext(ctx, "a dead letter that is to be redriven can't be decoded here; it waits", "dead_letter", it.dead, "error", err)
			continue
		}
		failpoint.Hit("inbox.redrive.taken")
		c.mu.Lock()
		c.redriving[it.dead] = true
		c.mu.Unlock()
		c.gate.add(it.m.size())
		c.lane(it).put(it)
	}
	return err
}

// decodeDead decodes the payload of a dead letter. One that is not there any more, as its subject was erased or could not be named, is given
// up again, with that as its error.
func (c *Consumer) decodeDead(ctx context.Context, it *item) error {
	plain, _, err := c.cfg.Codec.Decode(ctx, c.pool, place(c.cfg.Name, it.entry), it.m.Payload)
	if errors.Is(err, codec.ErrErased) || errors.Is(err, codec.ErrNotKept) {
		it.verdict, plain, err = &verdict{"terminal", err}, nil, nil
	}
	if err == nil {
		it.m.Payload = plain
	}
	return err
}
