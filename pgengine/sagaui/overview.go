package sagaui

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// What bounds the overview's statements, whatever lies in the tables.
const (
	mostCounted = 10_000 // messages
	mostOpen    = 3_000  // sagas that have not ended
	mostRecent  = 5_000  // sagas whose times are looked at
	mostListed  = 8      // of each short list
)

// Overview is how everything stands.
type Overview struct {
	Stuck    []Head                   `json:"stuck"`  // the last started first
	Open     map[pgengine.State]int   `json:"open"`   // how many have not ended; of a crowd 3,000 and those that are stuck
	Oldest   []Head                   `json:"oldest"` // of those that have not ended
	Recent   []Recent                 `json:"recent"`
	Workers  []Worker                 `json:"workers"`
	Versions []pgengine.VersionStatus `json:"versions"`
	Backlog  Backlog                  `json:"backlog"`
	Alerts   []string                 `json:"alerts"` // what somebody should look after, in words
}

// Recent is how those of the sagas that were started last have fared that have one name.
type Recent struct {
	Name        string  `json:"name"`
	Sagas       int     `json:"sagas"`
	Completed   int     `json:"completed"`
	Compensated int     `json:"compensated"`
	LastMinute  int     `json:"last_minute"` // that ended within it
	P50         float64 `json:"p50"`         // seconds from start to end
	P99         float64 `json:"p99"`
	Span        float64 `json:"span"` // seconds since the first of them was started
}

// Rate is how many are started a second.
func (r Recent) Rate() string { return fmt.Sprintf("%.1f", float64(r.Sagas)/max(r.Span, 1)) }

// Worker is one that works, or did.
type Worker struct {
	ID          string    `json:"id"`
	Host        string    `json:"host"`
	PID         int       `json:"pid"`
	Definitions []string  `json:"definitions"`
	StartedAt   time.Time `json:"started_at"`
	BeatAt      time.Time `json:"beat_at"`
	Live        bool      `json:"live"`
}

// Backlog is what waits in the outbox and the inbox. Each count stops at 10,000.
type Backlog struct {
	Pending   int `json:"pending"`
	Stuck     int `json:"stuck"`
	Dead      int `json:"dead"`
	Scheduled int `json:"scheduled"`
	Relays    int `json:"relays"` // live ones
	Failing   int `json:"failing"`
	InboxDead int `json:"inbox_dead"`
}

var states = []pgengine.State{
	pgengine.Stuck, pgengine.Running, pgengine.Failing, pgengine.Compensating, pgengine.Completed, pgengine.Compensated,
}

// reads runs f in a transaction that only reads.
func (c *console) reads(ctx context.Context, f func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, c.engine.Pool(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql.NoJIT); err != nil {
			return err
		}
		return f(tx)
	})
}

func (c *console) overview(r *http.Request) (any, error) {
	o := Overview{Open: map[pgengine.State]int{}}
	err := c.reads(r.Context(), func(tx pgx.Tx) error { return c.fill(r.Context(), tx, &o) })
	o.Alerts = o.alerts()
	return o, err
}

func (c *console) fill(ctx context.Context, tx pgx.Tx, o *Overview) error {
	stuck, err := c.find(ctx, tx, query{States: []pgengine.State{pgengine.Stuck}, Limit: mostListed})
	if err != nil {
		return err
	}
	o.Stuck = stuck.Sagas

	rows, err := tx.Query(ctx, sql.UIOpenCount, mostOpen)
	if err != nil {
		return err
	}
	var state pgengine.State
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error { o.Open[state] = n; return nil }); err != nil {
		return err
	}
	if rows, err = tx.Query(ctx, sql.UIOldest, mostListed); err != nil {
		return err
	}
	if o.Oldest, err = pgx.CollectRows(rows, scanHead); err != nil {
		return err
	}
	if rows, err = tx.Query(ctx, sql.UIRecent, mostRecent); err != nil {
		return err
	}
	if o.Recent, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Recent]); err != nil {
		return err
	}
	if o.Workers, err = workers(ctx, tx); err != nil {
		return err
	}
	if o.Versions, _, err = c.versions(ctx, tx, ""); err != nil {
		return err
	}
	b := &o.Backlog
	return tx.QueryRow(ctx, sql.UIBacklog, mostCounted).Scan(&b.Pending, &b.Stuck, &b.Dead, &b.Scheduled, &b.Relays, &b.Failing, &b.InboxDead)
}

func workers(ctx context.Context, db sql.Querier) ([]Worker, error) {
	rows, err := db.Query(ctx, sql.WorkerList)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Worker])
}

// scanHead reads a saga as the lists have it.
func scanHead(row pgx.CollectableRow) (s Head, err error) {
	err = row.Scan(&s.ID, &s.Name, &s.Version, &s.State, &s.Key, &s.Tags, &s.Cause, &s.CreatedAt, &s.Deadline, &s.EndedAt, &s.PausedAt, &s.StuckAt)
	return s, err
}

// alerts are what calls for somebody, the worst first.
func (o *Overview) alerts() []string {
	all := []string{}
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if n := o.Open[pgengine.Stuck]; n > 0 {
		say("%s for an operator", waits(n, "saga"))
	}
	for _, v := range o.Versions {
		if v.Unfinished > 0 && v.Workers == 0 {
			say("no live worker has the code of %s/%d, and %s for it", v.Name, v.Version, waits(v.Unfinished, "saga"))
		}
	}
	if !slices.ContainsFunc(o.Workers, func(w Worker) bool { return w.Live }) {
		say("no worker is alive: no saga goes on")
	}
	if n := o.Backlog.Dead + o.Backlog.InboxDead; n > 0 {
		say("%s: to be redriven or dropped", letters(n))
	}
	if o.Backlog.Pending > 0 && o.Backlog.Relays == 0 {
		say("%s for a relay, and none is alive", waits(o.Backlog.Pending, "message"))
	}
	return all
}

func waits(n int, what string) string {
	if n == 1 {
		return "1 " + what + " waits"
	}
	return fmt.Sprintf("%d %ss wait", n, what)
}

func letters(n int) string {
	if n == 1 {
		return "1 dead letter lies there"
	}
	return fmt.Sprintf("%d dead letters lie there", n)
}
