package localpg

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestStandby: what was committed survives the primary, and the standby, once it is promoted, can have one of its own.
func TestStandby(t *testing.T) {
	server := start(t, nil)
	follow := func(of *Server) *Server {
		t.Helper()
		standby, err := of.Standby(t.Context())
		if errors.Is(err, ErrNoBinaries) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := standby.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return standby
	}
	if _, err := connect(t, server).Exec(t.Context(), `CREATE TABLE written (n integer)`); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		standby := follow(server)
		if _, err := connect(t, server).Exec(t.Context(), fmt.Sprintf(`INSERT INTO written VALUES (%d)`, n)); err != nil {
			t.Fatal(err)
		}
		if n == 1 { // it is back soon
			if err := errors.Join(server.Crash(), server.Restart(t.Context()), server.InSync(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(server.Crash(), standby.Promote(t.Context())); err != nil {
			t.Fatal(err)
		}
		server = standby
		conn := connect(t, server)
		var count int
		var timeline string
		if err := conn.QueryRow(t.Context(), `SELECT count(*), left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM written`).Scan(&count, &timeline); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%08d", n+2); count != n+1 || timeline != want {
			t.Errorf("%d rows of %d on timeline %s, want %s", count, n+1, timeline, want)
		}
		if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { // it waits for nobody
			_, err := tx.Exec(t.Context(), `CREATE TABLE more`+fmt.Sprint(n)+` (n integer)`)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}
