package inbox

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// State is how an inbox stands.
type State struct {
	Floor        time.Time        `json:"floor"`                   // events before it are refused
	ForeignFloor *time.Time       `json:"foreign_floor,omitempty"` // the same, by when they were sent, for ids of other makes
	Ceiling      time.Time        `json:"ceiling"`                 // partitions are there up to here
	Partitions   int              `json:"partitions"`
	Late         int              `json:"late"`    // of them, made by a claim that needed them: nobody had made them ahead
	Entries      int64            `json:"entries"` // about: what ANALYZE has counted
	Foreign      int64            `json:"foreign"` // of them, with ids of other makes; about
	Bytes        int64            `json:"bytes"`
	Consumers    []ConsumerStatus `json:"consumers"`
}

// mostCounted is where the counts of a consumer stop.
const mostCounted = 20_000

// ConsumerStatus is how a consumer stands. Each of its counts stops at 20,000.
type ConsumerStatus struct {
	Name      string         `json:"name"`
	Horizon   *time.Duration `json:"horizon,omitempty"` // how long its broker may deliver again, in nanoseconds
	Retention *time.Duration `json:"retention,omitempty"`
	SeenAt    *time.Time     `json:"seen_at,omitempty"` // a running Consumer shows itself every hour; nil: there was none
	LastAt    *time.Time     `json:"last_at,omitempty"` // when it took its last event
	LastHour  int64          `json:"last_hour"`         // events it took in the last hour
	Failing   int64          `json:"failing"`           // events that have failed and are tried again
	Dead      int64          `json:"dead"`              // letters, those that are being redriven included
	Redriving int64          `json:"redriving"`
}

// Status reads how the inbox stands.
func Status(ctx context.Context, db sql.Querier) (State, error) {
	var s State
	err := db.QueryRow(ctx, sql.InboxStatus).Scan(&s.Floor, &s.Ceiling, &s.ForeignFloor, &s.Partitions, &s.Late, &s.Entries, &s.Foreign, &s.Bytes)
	if err != nil {
		return s, err
	}
	rows, err := db.Query(ctx, sql.InboxStatusConsumers, mostCounted)
	if err != nil {
		return s, err
	}
	s.Consumers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ConsumerStatus])
	return s, err
}
