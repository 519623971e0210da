package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// at is a UUIDv7 of a time.
func at(t time.Time) string {
	u := uuid.Must(uuid.NewV7())
	ms := uint64(t.UnixMilli())
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	return u.String()
}

// TestEventID: Go and Postgres give every id the same name, and only UUIDv7s of this century keep theirs.
func TestEventID(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	day := func(s string) time.Time {
		d, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	v7 := newID()
	for _, c := range []struct {
		id   string
		kept bool
	}{
		{v7, true}, {strings.ToUpper(v7), true}, {at(day("2020-01-01T00:00:00Z")), true}, {at(day("2099-12-31T23:59:59Z")), true},
		{at(day("2019-12-31T23:59:59Z")), false}, {at(day("2100-01-01T00:00:00Z")), false},
		{uuid.NewString(), false}, {uuid.Max.String(), false}, {uuid.Nil.String(), false},
		{uuid.NewSHA1(uuid.NameSpaceDNS, []byte("x")).String(), false},
		{strings.ReplaceAll(v7, "-", ""), false}, {"{" + v7 + "}", false}, {"urn:uuid:" + v7, false}, {v7[:14] + "7" + v7[15:19] + "c" + v7[20:], false},
		{"17", false}, {"evt-123", false}, {"é€ 😀", false}, {" ", false}, {"'; DROP TABLE x; --", false}, {strings.Repeat("x", 10_000), false},
	} {
		for _, source := range []string{"", "shop", "/é"} {
			got := inbox.EventID(source, c.id)
			if theirs := query[string](t, pool, `SELECT pgsagaz.inbox_event_id($1, $2)::text`, source, c.id); theirs != got.String() {
				t.Errorf("%.60q of %q: %s in Go, %s in Postgres", c.id, source, got, theirs)
			}
			if c.kept != strings.EqualFold(got.String(), c.id) || !c.kept && got.String()[:2] != "ff" {
				t.Errorf("%.60q of %q: %s", c.id, source, got)
			}
		}
		if !c.kept && inbox.EventID("a", c.id) == inbox.EventID("b", c.id) {
			t.Errorf("%.60q is the same in two sources", c.id)
		}
	}
	if a, b := inbox.EventID("a", "bc"), inbox.EventID("ab", "c"); a == b {
		t.Error("source and id run into each other")
	}
	m := inbox.Message{ID: v7}
	again := inbox.Message{ID: v7, Attempt: "1"}
	other := inbox.Message{ID: newID(), Attempt: "1"}
	if m.EventID().String() != v7 || again.EventID() == m.EventID() || again.EventID() == other.EventID() || again.EventID()[0] != 0xff {
		t.Errorf("%s, %s, %s", m.EventID(), again.EventID(), other.EventID())
	}
}

// claims is a claim in a transaction of its own.
func claims(t testing.TB, db interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}, consumer, id string, o *inbox.ClaimOptions) (first bool, err error) {
	t.Helper()
	err = pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		first, err = inbox.Claim(t.Context(), tx, consumer, id, o)
		return err
	})
	return first, err
}

func TestClaim(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	id := newID()
	for i, c := range []struct {
		consumer, id string
		o            *inbox.ClaimOptions
		want         bool
	}{
		{"a", id, nil, true}, {"a", id, nil, false}, {"b", id, nil, true},
		{"a", strings.ToUpper(id), nil, false},
		{"a", id, &inbox.ClaimOptions{Source: "x"}, false}, // a UUIDv7 needs no source
		{"a", id, &inbox.ClaimOptions{Attempt: "again"}, true}, {"a", id, &inbox.ClaimOptions{Attempt: "again"}, false},
		{"a", "17", nil, true}, {"a", "17", nil, false}, {"a", "17", &inbox.ClaimOptions{Source: "x"}, true},
		{"a", "18", &inbox.ClaimOptions{Topic: "t", Type: "T", Payload: []byte{0, 1}, Time: time.Now()}, true},
	} {
		if first, err := claims(t, pool, c.consumer, c.id, c.o); err != nil || first != c.want {
			t.Errorf("claim %d of %s for %s: %v, %v", i, c.id, c.consumer, first, err)
		}
	}
	if got := query[string](t, pool, `SELECT foreign_id || ' ' || source_topic || ' ' || event_type || ' ' || encode(payload, 'hex') || ' ' || (processing_duration_ms IS NULL)
		FROM pgsagaz.consumer_inbox WHERE foreign_id = '18'`); got != "18 t T 0001 true" {
		t.Error(got)
	}
	if got := query[string](t, pool, `SELECT foreign_id FROM pgsagaz.consumer_inbox WHERE foreign_id LIKE '%again'`); got != id+" attempt again" {
		t.Error(got)
	}

	for _, bad := range []string{"", "a\x00b", "a\xffb"} {
		if _, err := claims(t, pool, "a", bad, nil); !errors.Is(err, inbox.ErrNoID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 256)} {
		if _, err := claims(t, pool, bad, id, nil); sql.State(err) != sql.StateBadArgument {
			t.Errorf("consumer %q: %v", bad, err)
		}
	}
	if _, err := claims(t, pool, "a", at(time.Now().AddDate(0, 0, 40)), nil); !errors.Is(err, inbox.ErrFuture) {
		t.Errorf("from the future: %v", err)
	}
	if first, err := claims(t, pool, "a", at(time.Now().AddDate(0, 0, 20)), nil); err != nil || !first {
		t.Errorf("20 days ahead: %v, %v", first, err)
	}
	if first, err := claims(t, pool, "a", at(time.Now().AddDate(-5, 0, 0)), nil); err != nil || !first {
		t.Errorf("five years old, and nothing was dropped yet: %v, %v", first, err)
	}
	exec(t, pool, `UPDATE pgsagaz.inbox_state SET floor = (SELECT max(upper::text) FROM pgsagaz.inbox_partition WHERE upper < pgsagaz.inbox_bound(now()))::uuid, foreign_floor = now() - interval '1 day'`)
	if _, err := claims(t, pool, "a", at(time.Now().AddDate(-5, 0, 0)), nil); !errors.Is(err, inbox.ErrTooOld) {
		t.Errorf("below the floor: %v", err)
	}
	yesterday := time.Now().AddDate(0, 0, -2)
	if _, err := claims(t, pool, "a", "old", &inbox.ClaimOptions{Time: yesterday}); !errors.Is(err, inbox.ErrTooOld) {
		t.Errorf("below the foreign floor: %v", err)
	}
	if first, err := claims(t, pool, "a", "old", &inbox.ClaimOptions{Time: yesterday, Attempt: "x"}); err != nil || !first {
		t.Errorf("an attempt of today at an old event: %v, %v", first, err)
	}
	// What was dropped below the floor here stands in the way of the checks.
	exec(t, pool, `UPDATE pgsagaz.inbox_state SET floor = (SELECT min(lower::text) FROM pgsagaz.inbox_partition)::uuid`)
}

// TestClaimInSQL: psql and other languages claim as Go does.
func TestClaimInSQL(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	for id, want := range map[string][]bool{newID(): {true, false}, "evt-1": {true, false}} {
		for _, w := range want {
			if got := query[bool](t, pool, `SELECT pgsagaz.inbox_claim('c', $1, 'shop', 'topic', 'type')`, id); got != w {
				t.Errorf("%s: %v", id, got)
			}
		}
		if first, err := claims(t, pool, "c", id, &inbox.ClaimOptions{Source: "shop"}); err != nil || first {
			t.Errorf("in Go %s is %v, %v", id, first, err)
		}
	}
	exec(t, pool, `UPDATE pgsagaz.inbox_state SET foreign_floor = now()`)
	for _, c := range []struct{ statement, state string }{
		{`SELECT pgsagaz.inbox_claim('c', 'x', p_sent => now() - interval '1 second')`, sql.StateTooOld},
		{`SELECT pgsagaz.inbox_claim('c', '` + at(time.Now().AddDate(0, 2, 0)) + `')`, sql.StateFuture},
		{`SELECT pgsagaz.inbox_claim('c', '')`, sql.StateBadArgument},
		{`SELECT pgsagaz.inbox_claim('c', NULL)`, sql.StateBadArgument},
		{`SELECT pgsagaz.inbox_claim('', 'x')`, sql.StateBadArgument},
	} {
		if _, err := pool.Exec(t.Context(), c.statement); sql.State(err) != c.state {
			t.Errorf("%s: %v, want %s", c.statement, err, c.state)
		}
	}
}

// TestClaimIsDurable: what is acked to a broker must be on disk, whatever the session has set.
func TestClaimIsDurable(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	for setting, want := range map[string]string{"off": "on", "local": "on", "on": "on", "remote_write": "remote_write"} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			exec(t, tx, "SET LOCAL synchronous_commit = "+setting)
			if _, err := inbox.Claim(t.Context(), tx, "c", newID(), nil); err != nil {
				return err
			}
			if got := query[string](t, tx, `SHOW synchronous_commit`); got != want {
				t.Errorf("%s became %s", setting, got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestPartitionsAreMadeAhead, and where they were not, a claim makes them and says so.
func TestPartitionsAreMadeAhead(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	late := func() int { return query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_partition WHERE late`) }
	if n := query[int](t, pool, `SELECT pgsagaz.inbox_make_partitions(now() + interval '3 days')`); n != 5 {
		t.Errorf("%d partitions; one for all the past, today's and three more", n)
	}
	if n := query[int](t, pool, `SELECT pgsagaz.inbox_make_partitions(now() + interval '3 days')`); n != 0 {
		t.Errorf("%d partitions for the second time", n)
	}
	if _, err := claims(t, pool, "c", newID(), nil); err != nil || late() != 0 {
		t.Errorf("%v, %d late", err, late())
	}
	if first, err := claims(t, pool, "c", at(time.Now().AddDate(0, 0, 6)), nil); err != nil || !first || late() != 3 {
		t.Errorf("%v, %v, %d late", first, err, late())
	}
	// A claim that rolls back takes its partitions with it, and the next one makes them.
	id := at(time.Now().AddDate(0, 0, 8))
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := inbox.Claim(t.Context(), tx, "c", id, nil)
		return errors.Join(err, errors.New("no"))
	})
	if err == nil || late() != 3 {
		t.Errorf("%v, %d late", err, late())
	}
	if first, err := claims(t, pool, "c", id, nil); err != nil || !first || late() != 5 {
		t.Errorf("%v, %v, %d late", first, err, late())
	}
	s, err := inbox.Status(t.Context(), pool)
	if err != nil || s.Late != 5 || s.Partitions != 10 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestManyNeedTheSamePartition: all at once, while nobody has made it.
func TestManyNeedTheSamePartition(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	errs := make(chan error)
	const n = 8
	for i := range n {
		go func() {
			first, err := inbox.Process(t.Context(), pool, "c", inbox.Message{ID: at(time.Now().AddDate(0, 0, i%3))}, writes("c"))
			if err == nil && !first {
				err = errors.New("not the first")
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestClaimsOfManyIds holds the batch and the single statement together: the same ids give the same outcomes.
func TestClaimsOfManyIds(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	exec(t, pool, `UPDATE pgsagaz.inbox_state SET floor = (SELECT upper FROM pgsagaz.inbox_partition ORDER BY upper LIMIT 1)`)
	defer exec(t, pool, `UPDATE pgsagaz.inbox_state SET floor = (SELECT lower FROM pgsagaz.inbox_partition ORDER BY lower LIMIT 1)`)
	var ids, foreign []string
	for i := range 60 {
		switch rand.IntN(5) {
		case 0:
			ids = append(ids, at(time.Now().AddDate(-1, 0, 0)))
		case 1:
			ids = append(ids, at(time.Now().AddDate(0, 0, 50)))
		case 2:
			ids = append(ids, inbox.EventID("", fmt.Sprint(i)).String())
		default:
			ids = append(ids, newID())
		}
		foreign = append(foreign, "")
	}
	call := func(consumer string, ids []string) []string {
		return query[[]string](t, pool, `SELECT pgsagaz.inbox_claims($1, $2::uuid[], $3, $3, $3, NULL, NULL, NULL)`, consumer, ids, foreign[:len(ids)])
	}
	for range 2 { // the first time and the second
		together := call("together", ids)
		for i, id := range ids {
			if alone := call("alone", []string{id}); alone[0] != together[i] {
				t.Errorf("%s is %s alone and %s together", id, alone[0], together[i])
			}
		}
	}
}
