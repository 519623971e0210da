package sql_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// settling is what a settlement says, as pgsagaz.settle takes it.
type settling struct {
	saga       string
	from       string
	lane       int64
	token      int64
	step       string
	nextStep   *string
	state      *string
	attempt    int
	resultJSON string
}

func (s settling) settle(t testing.TB, db sql.Querier) error {
	var direction *string
	var generation *int
	if s.nextStep != nil {
		direction, generation = new("do"), new(1)
	}
	_, err := db.Exec(t.Context(), sql.Settle, s.saga, []string{s.from}, s.lane, s.token, "w", s.step, "do", 1,
		"done", false, s.attempt, s.resultJSON, nil, nil, 1.5, nextOr(s.nextStep), direction, generation, s.state, nil, nil, nil, nil, nil, nil)
	return err
}

func nextOr(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

// begun is a saga whose lane, of token 5, is at step a.
func begun(t testing.TB, pool *pgxpool.Pool) (saga string, lane int64) {
	t.Helper()
	saga, lane = started(t, pool)
	exec(t, pool, sql.LaneBegin, saga, lane, "w", 5, "a", nil, nil, nil, nil, nil)
	return saga, lane
}

func started(t testing.TB, pool *pgxpool.Pool) (saga string, lane int64) {
	t.Helper()
	saga = query[string](t, pool, `SELECT id::text FROM pgsagaz.start('order', '{"x": 1}', p_version => 1, p_registered => false)`)
	return saga, query[int64](t, pool, "SELECT id FROM pgsagaz.lane WHERE saga_id = $1", saga)
}

// TestSettleAndFenceSayWhy: which SQLSTATE, and that nothing is written with it.
func TestSettleAndFenceSayWhy(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	saga, lane := begun(t, pool)
	nobody := uuid.NewString()
	for _, test := range []struct {
		name        string
		saga, from  string
		lane, token int64
		state       string
	}{
		{"no such saga", nobody, "running", lane, 5, sql.StateNoSaga},
		{"another state", saga, "compensating", lane, 5, sql.StateOtherState},
		{"another's token", saga, "running", lane, 6, sql.StateLaneLost},
		{"no such lane", saga, "running", lane + 1000, 5, sql.StateLaneLost},
		{"another's token in another state", saga, "compensating", lane, 6, sql.StateLaneLost}, // it must not turn back what is not its own
	} {
		for _, next := range []*string{nil, new("b")} {
			err := settling{saga: test.saga, from: test.from, lane: test.lane, token: test.token, step: "a", nextStep: next, attempt: 1, resultJSON: "1"}.settle(t, pool)
			if sql.State(err) != test.state {
				t.Errorf("settle, %s: %v, want %s", test.name, err, test.state)
			}
		}
		_, err := pool.Exec(t.Context(), "SELECT pgsagaz.fence($1, $2, $3, $4)", test.saga, []string{test.from}, test.lane, test.token)
		if sql.State(err) != test.state {
			t.Errorf("fence, %s: %v, want %s", test.name, err, test.state)
		}
		_, err = pool.Exec(t.Context(), sql.RetryLater, test.saga, []string{test.from}, test.lane, test.token, "w", "error", "no", false, 0.0, 0.0, false)
		if sql.State(err) != test.state {
			t.Errorf("retry_later, %s: %v, want %s", test.name, err, test.state)
		}
	}
	if n := query[int](t, pool, "SELECT count(*) FROM pgsagaz.step"); n > 0 {
		t.Errorf("%d outcomes were written by settlements that failed", n)
	}
	if _, err := pool.Exec(t.Context(), "SELECT pgsagaz.command($1, 'cancel', '')", nobody); sql.State(err) != sql.StateNoSaga {
		t.Errorf("a command for no saga: %v", err)
	}
	exec(t, pool, "SELECT pgsagaz.fence($1, '{failing,running}', $2, 5)", saga, lane)
}

// rows are what is stored of a saga, without what is different each time.
func rows(t testing.TB, db sql.Querier, saga string) []string {
	t.Helper()
	return list[string](t, db, `
		SELECT 'saga ' || (to_jsonb(s) - '{id,created_at,ended_at}'::text[])::text || (ended_at IS NOT NULL)::text FROM pgsagaz.saga s WHERE id = $1
		UNION ALL
		SELECT 'lane ' || (to_jsonb(l) - '{saga_id,id,job_id,run_at}'::text[])::text FROM pgsagaz.lane l WHERE saga_id = $1
		UNION ALL
		SELECT 'step ' || (to_jsonb(r) - '{saga_id,started_at,ended_at}'::text[])::text || result::text || round(extract(epoch FROM ended_at - started_at), 1)
		FROM pgsagaz.step r WHERE saga_id = $1
		ORDER BY 1`, saga)
}

// TestTheShortSettlementsAgreeWithTheLongOne: settle_first and settle_next, with what goes behind them, are
// shortcuts of pgsagaz.settle. From the same rows they make the same rows, and where it refuses they do.
func TestTheShortSettlementsAgreeWithTheLongOne(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	const took = 1.5
	for _, test := range []struct {
		name  string
		begin bool // the long one has to take the lane first
		next  *string
		state *string
		short func(b *pgx.Batch, s settling)
	}{
		{name: "first", begin: true, next: new("b"), short: func(b *pgx.Batch, s settling) {
			b.Queue(sql.SettleFirst, s.saga, s.lane, s.token, s.step, s.attempt, "w", s.resultJSON, took)
			b.Queue(sql.LaneMoveFirst, s.saga, s.lane, "b", "w", s.token)
		}},
		{name: "next", next: new("b"), short: func(b *pgx.Batch, s settling) {
			b.Queue(sql.SettleNext, s.saga, s.lane, s.token, s.step, s.attempt, "w", s.resultJSON, took)
			b.Queue(sql.LaneMove, s.saga, s.lane, "b")
		}},
		{name: "last", state: new("completed"), short: func(b *pgx.Batch, s settling) {
			b.Queue(sql.SettleNext, s.saga, s.lane, s.token, s.step, s.attempt, "w", s.resultJSON, took)
			b.Queue(sql.LaneEnd, s.saga, s.lane)
			b.Queue(sql.SagaComplete, s.saga)
		}},
	} {
		for _, before := range []struct {
			name, statement string
			fails           bool
		}{
			{"as it is", "SELECT $1::uuid", false},
			{"after failed attempts", "UPDATE pgsagaz.lane SET attempt = 2, crashes = 1, in_doubt = true, error = 'no' WHERE saga_id = $1 AND step <> ''", false},
			{"of a saga that turned back", "UPDATE pgsagaz.saga SET state = 'failing', cause = '{}' WHERE id = $1", true},
			{"of a lane that was taken over", "UPDATE pgsagaz.lane SET worker = 'x', token = 99, step = 'a' WHERE saga_id = $1", true},
			{"of a lane that is gone", "WITH c AS (INSERT INTO pgsagaz.command (saga_id, kind) VALUES ($1, 'cancel')) DELETE FROM pgsagaz.lane WHERE saga_id = $1", true},
		} {
			t.Run(test.name+" "+before.name, func(t *testing.T) {
				prepare := func() settling {
					saga, lane := started(t, pool)
					if !test.begin {
						exec(t, pool, sql.LaneBegin, saga, lane, "w", 5, "a", nil, nil, nil, nil, nil)
					}
					exec(t, pool, before.statement, saga)
					return settling{saga: saga, from: "running", lane: lane, token: 5, step: "a", nextStep: test.next, state: test.state, attempt: 3, resultJSON: `{"b":1,"a": 2}`}
				}
				long, short := prepare(), prepare()
				errLong := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					if test.begin {
						exec(t, tx, sql.LaneBegin, long.saga, long.lane, "w", 5, "a", nil, nil, nil, nil, nil)
					}
					return long.settle(t, tx)
				})
				pipeline := &pgx.Batch{}
				test.short(pipeline, short)
				errShort := pool.SendBatch(t.Context(), pipeline).Close()
				if (errLong != nil) != before.fails || (errShort != nil) != before.fails {
					t.Fatalf("long: %v; short: %v", errLong, errShort)
				}
				if before.fails && sql.State(errShort) != "23502" {
					t.Errorf("short: %v, want a NULL in a NOT NULL column, by which the engine knows", errShort)
				}
				got, want := rows(t, pool, short.saga), rows(t, pool, long.saga)
				if !slices.Equal(got, want) {
					t.Errorf("short\n%q\nlong\n%q", got, want)
				}
			})
		}
	}
}

func TestDurable(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	const now = "SELECT current_setting('synchronous_commit')"
	for was, want := range map[string]string{
		"off": "on", "local": "on",
		"on": "on", "remote_write": "remote_write", "remote_apply": "remote_apply", // asks for as much, or more
	} {
		exec(t, conn, "SET synchronous_commit = "+was)
		if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			exec(t, tx, "SELECT pgsagaz.durable()")
			if got := query[string](t, tx, now); got != want {
				t.Errorf("durable makes %s of %s, want %s", got, was, want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if got := query[string](t, conn, now); got != was {
			t.Errorf("after the transaction it is %s, want %s again", got, was)
		}
	}
	// Whatever asks something of a saga is on disk before anybody hears of it.
	exec(t, conn, "SET synchronous_commit = off")
	for _, statement := range []string{
		"SELECT pgsagaz.start('order', '{}', p_version => 1, p_registered => false)",
		"SELECT pgsagaz.command((SELECT id FROM pgsagaz.saga LIMIT 1), 'cancel', '')",
	} {
		if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			exec(t, tx, statement)
			if got := query[string](t, tx, now); got != "on" {
				t.Errorf("synchronous_commit is %s after %s", got, statement)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func TestUUID7(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	begun := time.Now()
	ids := list[string](t, pool, "SELECT pgsagaz.uuid7()::text FROM generate_series(1, 2000)")
	ended := time.Now()
	seen := map[string]bool{}
	last := ""
	for _, s := range ids {
		id := uuid.MustParse(s)
		if id.Version() != 7 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%s: version %d, variant %v", s, id.Version(), id.Variant())
		}
		if stamp := s[:13]; stamp < last { // the milliseconds; what is within one has no order
			t.Fatalf("%s comes after %s", stamp, last)
		}
		last = s[:13]
		if seen[s] {
			t.Fatalf("%s twice", s)
		}
		seen[s] = true
		seconds, nanos := id.Time().UnixTime()
		if at := time.Unix(seconds, nanos); at.Before(begun.Add(-time.Minute)) || at.After(ended.Add(time.Minute)) {
			t.Fatalf("%s is of %v", s, at)
		}
	}
}
