package demo

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func testBank(t *testing.T, f Faults) (*bank, *BankClient, *pgxpool.Pool) {
	t.Helper()
	pool := sqltest.New(t)
	if err := install(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	b, err := openBank(pool, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client := &BankClient{}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		if err := b.shut(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b, client, pool
}

// entries are the moves of money with that key.
func entries(t *testing.T, pool *pgxpool.Pool, key string) (n int, net int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT count(*), coalesce(sum(cents), 0)::bigint FROM bank.entry WHERE key = $1`, key).Scan(&n, &net); err != nil {
		t.Fatal(err)
	}
	return n, net
}

func TestBankActsOnceAKey(t *testing.T) {
	b, client, pool := testBank(t, Faults{})
	good := Card{Bank: b.url, Number: "card-0001"}

	var wg sync.WaitGroup
	ids := make([]int64, 8)
	for i := range ids {
		wg.Go(func() {
			p, err := client.Charge(t.Context(), "k", good, 700)
			if err != nil {
				t.Error(err)
			}
			ids[i] = p.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == 0 {
			t.Errorf("payments %v, want one", ids)
			break
		}
	}
	if n, net := entries(t, pool, "k"); n != 1 || net != 700 {
		t.Errorf("%d moves of %d cents after 8 charges with one key, want 1 of 700", n, net)
	}
	if _, err := client.Charge(t.Context(), "k", good, 701); err == nil {
		t.Error("a key was used again for another amount")
	}
	if p, found, err := client.FindOrCancel(t.Context(), "k", good); err != nil || !found || p.Cents != 700 {
		t.Errorf("find a charge: %v, %t, %v", p, found, err)
	}
	for range 2 {
		if err := client.Refund(t.Context(), "k/undo", good, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if n, net := entries(t, pool, "k"); n != 2 || net != 0 {
		t.Errorf("%d moves, %d cents left after two refunds, want 2 and 0", n, net)
	}
}

func TestBankRemembersCancelledKeys(t *testing.T) {
	b, client, pool := testBank(t, Faults{})
	good := Card{Bank: b.url, Number: "card-0001"}

	if err := client.Refund(t.Context(), "r/undo", good, "r"); err != nil {
		t.Fatalf("refund what was never charged: %v", err)
	}
	if _, found, err := client.FindOrCancel(t.Context(), "l", good); err != nil || found {
		t.Fatalf("find what was never charged: %t, %v", found, err)
	}
	for _, key := range []string{"r", "l"} {
		_, err := client.Charge(t.Context(), key, good, 700)
		if !errors.Is(err, errCancelled) || !errors.As(err, new(*pgengine.TerminalError)) {
			t.Errorf("late charge with the cancelled key %s: %v, want a terminal errCancelled", key, err)
		}
		if n, _ := entries(t, pool, key); n != 0 {
			t.Errorf("late charge with the cancelled key %s moved money", key)
		}
	}
}

func TestBankDeclines(t *testing.T) {
	b, client, pool := testBank(t, Faults{})
	poor := Card{Bank: b.url, Number: emptyCard}
	for range 2 {
		_, err := client.Charge(t.Context(), "k", poor, 700)
		if !errors.Is(err, errDeclined) || !errors.As(err, new(*pgengine.TerminalError)) {
			t.Errorf("%v, want a terminal errDeclined", err)
		}
	}
	if _, found, err := client.FindOrCancel(t.Context(), "k", poor); err != nil || found {
		t.Errorf("a declined charge was found: %t, %v", found, err)
	}
	if n, _ := entries(t, pool, "k"); n != 0 {
		t.Error("a declined charge moved money")
	}
	if _, err := client.Charge(t.Context(), "", poor, 700); err == nil {
		t.Error("charged without a key")
	}
}

func TestBankFaults(t *testing.T) {
	for name, c := range map[string]struct {
		faults Faults
		acted  int // -1: either
	}{
		"before": {Faults{Before: 1}, 0},
		"after":  {Faults{After: 1}, 1},
		"slow":   {Faults{Slow: 1}, -1},
	} {
		t.Run(name, func(t *testing.T) {
			b, client, pool := testBank(t, c.faults)
			_, err := client.Charge(t.Context(), "k", Card{Bank: b.url, Number: "card-0001"}, 700)
			if err == nil || errors.As(err, new(*pgengine.TerminalError)) {
				t.Errorf("%v, want an error that leaves things open", err)
			}
			if n, _ := entries(t, pool, "k"); c.acted >= 0 && n != c.acted {
				t.Errorf("it acted %d times, want %d", n, c.acted)
			}
			if err := b.shut(t.Context()); err != nil { // waits for the slow
				t.Fatal(err)
			}
			if n, _ := entries(t, pool, "k"); c.acted < 0 && n != 1 {
				t.Errorf("it acted %d times in the end, want 1", n)
			}
		})
	}
}
