package jobs_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

type nothing struct{}

func (nothing) SagaName() string { return "nothing" }

// A worker that could not work says so when it is made, and names what is wrong.
func TestNewWorkerRefuses(t *testing.T) {
	t.Parallel()
	saga := pgengine.Saga[nothing]{Version: 1, Steps: pgengine.Steps[nothing](pgengine.TxStep[nothing, int]{
		Name: "step", Do: func(context.Context, pgx.Tx, pgengine.Call[nothing]) (int, error) { return 0, nil },
	})}
	withSaga, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{saga}})
	if err != nil {
		t.Fatal(err)
	}
	without, err := pgengine.New(nil, pgengine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for want, test := range map[string]struct {
		engine *pgengine.Engine
		cfg    jobs.Config
	}{
		"no sagas":    {without, jobs.Config{}},
		"MaxWorkers":  {withSaga, jobs.Config{MaxWorkers: -1}},
		"Lease":       {withSaga, jobs.Config{Lease: 10 * time.Millisecond}},
		"KeepArchive": {withSaga, jobs.Config{KeepArchive: -1}},
		"Poll":        {withSaga, jobs.Config{Poll: -time.Second}},
		"Queues":      {withSaga, jobs.Config{Queues: map[string]int{"default": -1}}},
	} {
		if _, err := jobs.NewWorker(test.engine, test.cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that names %s", err, want)
		}
	}
	w, err := jobs.NewWorker(withSaga, jobs.Config{ID: "mine"})
	if err != nil || w.ID() != "mine" {
		t.Errorf("%v, %v", w, err)
	}
}
