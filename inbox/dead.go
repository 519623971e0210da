package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
)

// ErrNoDeadLetter: there is no dead letter with this id.
var ErrNoDeadLetter = errors.New("inbox: no such dead letter")

// DeadLetter is a message that was given up. It lies in pgsagaz.inbox_dead until it is redriven with success, or
// dropped. Its event counts as taken: a redelivery is a duplicate.
type DeadLetter struct {
	ID        int64
	Consumer  string
	EventID   string // in consumer_inbox
	Message   Message
	Reason    string // attempts, terminal, no message, too old, from the future
	Error     string // the last
	Attempts  int
	FirstAt   time.Time // of the first failed attempt
	DiedAt    time.Time
	Redrives  int  // how often it was redriven
	Redriving bool // it is to be tried again
	Size      int  // of the payload as it is stored, in bytes
}

// DeadFilter chooses dead letters. The zero value chooses all.
type DeadFilter struct {
	Consumer string
	Type     string
	Reason   string
	IDs      []int64
	After    int64 // those with greater ids
	Limit    int   // 0: all
	Heads    bool  // without payloads and headers, which may be large
}

// DeadLetters lists dead letters, the oldest first. Their payloads are decoded by the codec of ctx; see [codec.With].
func DeadLetters(ctx context.Context, db sql.Querier, f DeadFilter) ([]DeadLetter, error) {
	// A plan for any filter would read all letters for those of few consumers.
	rows, err := db.Query(ctx, sql.InboxDeadList, pgx.QueryExecModeCacheDescribe, f.Consumer, f.Type, f.Reason, f.IDs, f.After, f.Limit, f.Heads)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (DeadLetter, error) {
		var d DeadLetter
		var headers []byte
		var sent *time.Time
		m := &d.Message
		err := row.Scan(&d.ID, &d.Consumer, &d.EventID, &m.ID, &m.Source, &m.Attempt, &m.Topic, &m.Key, &m.Type, &m.Payload, &headers, &m.TraceParent,
			&sent, &d.Reason, &d.Error, &d.Attempts, &d.FirstAt, &d.DiedAt, &d.Redrives, &d.Redriving, &d.Size)
		if err != nil {
			return d, err
		}
		if sent != nil {
			m.Time = *sent
		}
		return d, json.Unmarshal(headers, &m.Headers)
	})
	for i := range list {
		if d := &list[i]; err == nil {
			err = shown(ctx, db, codec.From(ctx), place(d.Consumer, d.EventID), &d.Message.Payload)
		}
	}
	return list, err
}

// Dead reads one. [ErrNoDeadLetter] if there is none.
func Dead(ctx context.Context, db sql.Querier, id int64) (DeadLetter, error) {
	all, err := DeadLetters(ctx, db, DeadFilter{IDs: []int64{id}})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%w: %d", ErrNoDeadLetter, id)
	}
	if err != nil {
		return DeadLetter{}, err
	}
	return all[0], nil
}

// By says who sees to something, and why, for the audit.
type By = sql.By

// Redrive asks for dead letters to be handled again: a running consumer of their name does so within a second or
// two. Each goes through the inbox under a new attempt id, so that it takes effect once for each redrive; it is
// gone when it has, and back among the dead if it fails again. One that is being redriven stays as it is.
// It returns the ids of those that were not. Their order is not kept. The audit of each commits with it.
func Redrive(ctx context.Context, db sql.Querier, by By, ids ...int64) ([]int64, error) {
	return touched(ctx, db, sql.InboxDeadRedrive, by, ids)
}

// Drop forgets dead letters, and returns the ids of those there were. Their events have had no effect, and will
// have none. The audit of each, which names its event, commits with it.
func Drop(ctx context.Context, db sql.Querier, by By, ids ...int64) ([]int64, error) {
	return touched(ctx, db, sql.InboxDeadDrop, by, ids)
}

func touched(ctx context.Context, db sql.Querier, statement string, by By, ids []int64) ([]int64, error) {
	if ids == nil {
		ids = []int64{}
	}
	rows, err := db.Query(ctx, statement, ids, by.Actor, by.Reason)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}
