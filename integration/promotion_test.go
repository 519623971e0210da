//go:build unix

package integration

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql/localpg"
)

// follow gives Postgres a standby that every commit waits for.
func (x *torture) follow() {
	x.t.Helper()
	standby, err := x.server.Standby(x.t.Context())
	if errors.Is(err, localpg.ErrNoBinaries) {
		lacks(x.t, err)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = standby.Stop(context.Background()) }) // an error: it does not stop in time, and is killed
	x.standby = standby
}

// promote stops Postgres at once. The proxies lead to the standby, which takes no writes for a moment; then it takes over, and has a standby of its
// own made.
func (x *torture) promote() {
	x.t.Helper()
	ctx := x.t.Context()
	if err := x.server.InSync(ctx); err != nil { // whoever promotes a standby that lags loses what was acknowledged
		x.t.Fatal(err)
	}
	burned := x.burn()
	if err := x.server.Crash(); err != nil {
		x.t.Fatal(err)
	}
	x.proxy.lead(x.t, x.standby.URL())
	x.door.lead(x.t, x.standby.URL())
	for _, p := range x.processes {
		p.wake()
	}
	time.Sleep(300 * time.Millisecond) // so long, at least
	for _, p := range x.processes {    // so that none has a transaction before it is asked which id is the first
		p.stop()
	}
	if err := x.standby.Promote(ctx); err != nil {
		x.t.Fatal(err)
	}
	x.again += max(0, burned+1-x.next())
	for _, p := range x.processes {
		p.wake()
	}
	_ = x.server.Stop(ctx) // it has ended: this removes its data
	x.server = x.standby
	x.follow()
}

// burn has transactions roll back that nobody waits for, while only the relays run, whose snapshots have seen them then. Their ids are
// forgotten with the server. It returns the last.
func (x *torture) burn() (last int) {
	for i, p := range x.processes {
		if x.roles[i].Role != "relay" {
			p.stop()
		}
	}
	_, _ = x.pool.Exec(x.t.Context(), `ALTER SYSTEM SET wal_writer_delay = '10s'; SELECT pg_reload_conf()`) // an error: there are fewer of them
	for begun := time.Now(); time.Since(begun) < 200*time.Millisecond; {
		_ = pgx.BeginFunc(x.t.Context(), x.pool, func(tx pgx.Tx) error {
			var id int
			if err := tx.QueryRow(x.t.Context(), `SELECT pg_current_xact_id()::text::bigint`).Scan(&id); err != nil {
				return err
			}
			last = max(last, id)
			return errors.New("rolled back")
		})
	}
	return last
}

// next is the transaction id that no transaction of the new primary has had yet.
func (x *torture) next() (id int) {
	eventually(x.t, patience, "the new primary answers", func() bool {
		return x.pool.QueryRow(x.t.Context(), `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`).Scan(&id) == nil
	})
	return id
}

// TestPromotion: the standby takes over while sagas, relays and consumers are at work, twice. The cluster is the same, as its system identifier says, and
// the relays take it for that. But its new time line begins before transaction ids that the old primary gave out and never wrote down: these come
// again, and a snapshot from before would take what is written under them for old.
func TestPromotion(t *testing.T) {
	t.Parallel()
	x := newTorture(t)
	x.most, x.whole = 300, 8*time.Second
	x.follow()
	x.run([]harm{
		{at: 1 * time.Second, what: "kill", whom: x.random.IntN(1000)},
		{at: 2 * time.Second, what: "promote"},
		{at: 4 * time.Second, what: "kill all"}, // whoever begins after a promotion knows of no time before
		{at: 5 * time.Second, what: "promote"},
	})
	x.settle()
	x.check()
	if x.again == 0 {
		t.Error("no transaction id came again")
	}
	if line := x.one(`SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int`); line != 3 {
		t.Errorf("it is time line %d", line)
	}
	for _, p := range x.ever {
		if bytes.Contains(p.log.bytes(), []byte("restored from another cluster")) {
			t.Errorf("%s takes the cluster for another", p.id)
		}
	}
	t.Logf("%d transaction ids came again; %d sagas, %d events, %d arrivals", x.again, len(x.sagas), x.one(`SELECT count(*) FROM said`), len(x.log.arrived()))
}
