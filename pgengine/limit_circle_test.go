package pgengine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

type hall struct{ Name string }

func (hall) SagaName() string { return "hall" }

// Sagas that keep a place while they wait for one, as their children do, would wait for each other for ever: they are refused, and told which.
func TestLimitsThatWaitForThemselves(t *testing.T) {
	t.Parallel()
	seat, table := pgengine.Limit[visit]{Name: "seat", Concurrency: 2}, pgengine.Limit[visit]{Name: "table", Concurrency: 2}
	each := pgengine.Limit[visit]{Name: "seat", Concurrency: 2, Key: ownKey}
	trip := pgengine.Child[hall, visit, int]{Name: "trip", Input: func(context.Context, pgengine.Call[hall]) (visit, error) { return visit{}, nil }}
	sit := pgengine.Activity[hall, int]{Name: "sit", Do: func(context.Context, pgengine.Call[hall]) (int, error) { return 1, nil }}
	halls := func(limit string, steps ...pgengine.Step[hall]) pgengine.Definition {
		return pgengine.Saga[hall]{Version: 1, Limit: pgengine.Limit[hall]{Name: limit, Concurrency: 3}, Steps: steps}
	}
	limited := sit
	limited.Limit = pgengine.Limit[hall]{Name: "seat", Concurrency: 2}
	again := pgengine.Child[hall, hall, int]{Name: "again", Input: func(context.Context, pgengine.Call[hall]) (hall, error) { return hall{}, nil }}
	stays := func(l ...pgengine.Limit[visit]) pgengine.Saga[visit] { return visits(1, time.Second, l...) }
	eats := stays(table)
	eats.Steps = append(eats.Steps, pgengine.Activity[visit, int]{Name: "eat", Limit: seat, Do: func(context.Context, visitCall) (int, error) { return 1, nil }})
	for _, c := range []struct {
		want  string // "": nothing is wrong
		sagas []pgengine.Definition
	}{
		{"", []pgengine.Definition{halls("seat", trip), stays(table)}},
		{"", []pgengine.Definition{halls("seat", trip), stays(each)}},
		{"", []pgengine.Definition{halls("seat", sit), stays(seat)}},
		{"", []pgengine.Definition{halls("table", limited), stays(seat)}},
		{`saga "hall": its Limit "seat" would wait for itself: hall keeps "seat" while the child visit of its step trip waits for "seat"`,
			[]pgengine.Definition{halls("seat", trip), stays(table, seat)}},
		{`hall keeps "x" while the child hall of its step again waits for "x"`, []pgengine.Definition{halls("x", again)}},
		{`hall keeps "seat" while the child visit of its step trip waits for "seat"`, []pgengine.Definition{halls("seat", trip), eats}},
		{`visit keeps "seat" while its step eat waits for "table", and hall keeps "table" while its step sit waits for "seat"`, func() []pgengine.Definition {
			visits := stays(seat)
			visits.Steps = append(visits.Steps, pgengine.Activity[visit, int]{Name: "eat", Limit: table, Do: func(context.Context, visitCall) (int, error) { return 1, nil }})
			return []pgengine.Definition{halls("table", limited), visits}
		}()},
	} {
		_, err := pgengine.New(nil, pgengine.Config{Sagas: c.sagas})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
