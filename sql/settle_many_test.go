package sql_test

import (
	"slices"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// before is what may have become of a saga by the time that somebody settles a step of it.
var before = []struct {
	name, statement string
	passed          bool // over
}{
	{"as it is", "SELECT $1::uuid", false},
	{"after failed attempts", "UPDATE pgsagaz.lane SET attempt = 2, crashes = 1, in_doubt = true, error = 'no' WHERE saga_id = $1 AND step <> ''", false},
	{"turned back", "UPDATE pgsagaz.saga SET state = 'failing', cause = '{}' WHERE id = $1", true},
	{"paused", "UPDATE pgsagaz.saga SET paused_at = '2026-01-01' WHERE id = $1", true},
	{"its lane taken over", "UPDATE pgsagaz.lane SET worker = 'x', token = 99, step = 'a' WHERE saga_id = $1", true},
	{"its lane gone", "WITH c AS (INSERT INTO pgsagaz.command (saga_id, kind) VALUES ($1, 'cancel')) DELETE FROM pgsagaz.lane WHERE saga_id = $1", true},
}

// TestSettlingTogetherIsSettlingAlone: settle_many makes of each saga what pgsagaz.settle does, and passes over whom that refuses.
func TestSettlingTogetherIsSettlingAlone(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	var all, long []settling
	for _, b := range before {
		for _, next := range []*string{new("b"), nil} {
			for _, list := range []*[]settling{&all, &long} {
				saga, lane := started(t, pool)
				token := int64(100 + len(*list))
				exec(t, pool, sql.LaneBegin, saga, lane, "w", token, "a", nil, nil, nil, nil, nil)
				exec(t, pool, b.statement, saga)
				s := settling{saga: saga, from: "running", lane: lane, token: token, step: "a", nextStep: next, attempt: 3, resultJSON: `{"b":1,"a": 2}`}
				if next == nil {
					s.state = new("completed")
				}
				*list = append(*list, s)
			}
		}
	}
	got := settleMany(t, pool, all)
	for i, s := range all {
		b := before[i/2]
		if slices.Contains(got, s.token) == b.passed {
			t.Errorf("%s: settled: %v", b.name, !b.passed)
		}
		if !b.passed {
			if err := long[i].settle(t, pool); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
		if got, want := rows(t, pool, s.saga), rows(t, pool, long[i].saga); !slices.Equal(got, want) {
			t.Errorf("%s, together\n%q\nalone\n%q", b.name, got, want)
		}
	}
}

func settleMany(t *testing.T, db sql.Querier, all []settling) []int64 {
	t.Helper()
	var (
		sagas, steps, workers, results []string
		lanes, tokens                  []int64
		attempts                       []int
		took                           []float64
		next                           []*string
	)
	for _, s := range all {
		sagas, lanes, tokens, steps = append(sagas, s.saga), append(lanes, s.lane), append(tokens, s.token), append(steps, s.step)
		attempts, workers, results, took, next = append(attempts, s.attempt), append(workers, "w"), append(results, s.resultJSON), append(took, 1.5), append(next, s.nextStep)
	}
	return list[int64](t, db, sql.SettleMany, sagas, lanes, tokens, steps, attempts, workers, results, took, next)
}

// TestSettlingTogetherWaitsForNoSaga: a saga that somebody has locked is passed over, and the others are not kept by it. Who waits for one saga while
// he holds another may be waited for by its holder.
func TestSettlingTogetherWaitsForNoSaga(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	var all []settling
	for token := range int64(2) {
		saga, lane := started(t, pool)
		exec(t, pool, sql.LaneBegin, saga, lane, "w", token, "a", nil, nil, nil, nil, nil)
		all = append(all, settling{saga: saga, lane: lane, token: token, step: "a", nextStep: new("b"), attempt: 1, resultJSON: "1"})
	}
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(t.Context()) }()
	exec(t, holder, "SELECT FROM pgsagaz.saga WHERE id = $1 FOR NO KEY UPDATE", all[0].saga)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, conn, "SET lock_timeout = '5s'") // an error, were it to wait
	if got := settleMany(t, conn, all); !slices.Equal(got, []int64{1}) {
		t.Errorf("settled: %v, want the second alone", got)
	}
}
