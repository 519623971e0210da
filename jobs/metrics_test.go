package jobs_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// parcel is sent by a saga of two steps.
type parcel struct {
	Fail  bool `json:"fail"`  // the second step fails: the first is undone
	Stick bool `json:"stick"` // and so does the undo: it is stuck
	Late  bool `json:"late"`  // the second step outlives the deadline
}

func (parcel) SagaName() string { return "parcel" }

func parcels() pgengine.Definition {
	type call = pgengine.Call[parcel]
	pack := pgengine.TxStep[parcel, int]{
		Name: "pack", UndoRetry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do: func(context.Context, pgx.Tx, call) (int, error) { return 1, nil },
		Undo: func(_ context.Context, _ pgx.Tx, c call, _ int) error {
			if c.Input.Stick {
				return errors.New("glued")
			}
			return nil
		},
	}
	post := pgengine.Activity[parcel, int]{
		Name: "post", After: pgengine.Steps(pack), Retry: pgengine.NoRetry, Timeout: 20 * time.Second,
		Do: func(ctx context.Context, c call) (int, error) {
			if c.Input.Late {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			if c.Input.Fail || c.Input.Stick {
				return 0, pgengine.Terminal(errors.New("no stamp"))
			}
			return 1, nil
		},
		Undo: func(context.Context, call, int) error { return nil },
	}
	return pgengine.Saga[parcel]{Version: 1, Output: post, Steps: pgengine.Steps[parcel](pack, post)}
}

// figure is the sum over the series of a metric whose labels have these values; -1: there are none.
func figure(t testing.TB, g prometheus.Gatherer, name string, values ...string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := -1.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			for _, v := range values {
				if !slices.Contains(has, v) {
					continue series
				}
			}
			sum = max(0, sum) + m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened: " + what)
		}
	}
}

// TestMetricsOfSagas: each name of a saga's metrics is set, with its labels, to what has happened.
func TestMetricsOfSagas(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	registry := prometheus.NewPedanticRegistry()
	quiet := slog.New(slog.DiscardHandler)
	e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{parcels()}, Registry: registry, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	w, err := jobs.NewWorker(e, jobs.Config{Registry: registry, Sweep: 20 * time.Millisecond, Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	background(t, w.Run)
	for _, start := range []struct {
		in      parcel
		timeout time.Duration
	}{{}, {}, {in: parcel{Fail: true}}, {in: parcel{Stick: true}}, {in: parcel{Late: true}, timeout: 3 * time.Second}} {
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := e.Start(t.Context(), tx, start.in, &pgengine.StartOptions{Timeout: start.timeout})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		name   string
		labels []string
		value  float64
	}{
		{"saga_started_total", []string{"parcel"}, 5},
		{"saga_execution_total", []string{"parcel", "completed"}, 2},
		{"saga_execution_total", []string{"parcel", "compensated"}, 2},
		{"saga_execution_total", []string{"parcel", "stuck"}, 1},
		{"saga_execution_duration_seconds", []string{"parcel"}, 4},
		{"saga_step_duration_seconds", []string{"parcel", "pack"}, 5},
		{"saga_step_duration_seconds", []string{"parcel", "post"}, 2},
		{"saga_compensation_duration_seconds", []string{"parcel", "pack"}, 2},
		{"saga_deadlines_missed_total", []string{"parcel"}, 1},
		{"saga_step_failures_total", []string{"pack", "error"}, 2},
		{"saga_active_count", []string{"parcel"}, 0},
		{"saga_lanes_lost_total", []string{"parcel"}, 0},
		{"saga_commit_unknown_total", nil, 0},
		{"saga_takeovers_total", nil, 0},
		// The worker's collector leads, as it is alone.
		{"saga_stuck", []string{"parcel"}, 1},
		{"saga_workers", nil, 1},
		{"saga_deadline_overdue_seconds", nil, 0},
	} {
		eventually(t, want.name+" "+strings.Join(want.labels, " "), func() bool { return figure(t, registry, want.name, want.labels...) == want.value })
	}
	// The step whose deadline passed was in doubt: it is undone too, or found to be nothing.
	if n := figure(t, registry, "saga_compensations_total", "parcel"); n < 2 || n > 3 {
		t.Errorf("%v compensations", n)
	}
	if n := figure(t, registry, "river_job_get_available_total", "default"); n < 5 {
		t.Errorf("River has fetched %v jobs", n)
	}
	if figure(t, registry, "river_job_get_available_duration_seconds", "default") < 1 {
		t.Error("River says nothing of its fetches")
	}
	problems, err := testutil.GatherAndLint(registry)
	for _, p := range problems { // names that are the seed's
		if p.Metric != "outbox_pending_events_total" && p.Metric != "saga_active_count" {
			t.Error(p)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// TestTakeoversAreCounted: a dead worker once, with each of its lanes.
func TestTakeoversAreCounted(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	registry := prometheus.NewRegistry()
	e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{parcels()}, Registry: registry, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = e.Register(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := e.Start(t.Context(), tx, parcel{}, nil)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	// As a worker leaves them that was killed, once its row is gone.
	if _, err := pool.Exec(t.Context(), `UPDATE pgsagaz.lane SET worker = 'gone', token = 1, step = 'pack'`); err != nil {
		t.Fatal(err)
	}
	w, err := jobs.NewWorker(e, jobs.Config{Registry: registry, Sweep: 20 * time.Millisecond, Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	background(t, w.Run)
	eventually(t, "both end", func() bool { return figure(t, registry, "saga_execution_total", "completed") == 2 })
	if workers, lanes := figure(t, registry, "saga_takeovers_total"), figure(t, registry, "saga_lanes_taken_over_total"); workers < 1 || workers > 2 || lanes != 2 {
		t.Errorf("%v workers and %v lanes were taken over, want 1 (2 in two sweeps) and 2", workers, lanes)
	}
}

// TestOneCollectorLeads: of several one exports, so that a sum is right; another goes on when it stops, and one that
// was deposed is silent.
func TestOneCollectorLeads(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	const every = 20 * time.Millisecond
	type one struct {
		registry *prometheus.Registry
		stop     func()
	}
	start := func() one {
		registry := prometheus.NewRegistry()
		c, err := jobs.NewCollector(pool, jobs.CollectorConfig{Registry: registry, Every: every, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		o := one{registry, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}}
		return o
	}
	leads := func(o one) bool { return figure(t, o.registry, "saga_workers") >= 0 }
	all := []one{start(), start(), start()}
	for len(all) > 0 {
		var leader int
		eventually(t, "one leads", func() bool {
			leader = slices.IndexFunc(all, leads)
			return leader >= 0
		})
		if n := len(slices.DeleteFunc(slices.Clone(all), func(o one) bool { return !leads(o) })); n > 1 {
			t.Errorf("%d lead at once", n)
		}
		all[leader].stop()
		if leads(all[leader]) {
			t.Error("it exports after its end")
		}
		all = slices.Delete(all, leader, leader+1)
	}
	deposed := start()
	defer deposed.stop()
	eventually(t, "it leads", func() bool { return leads(deposed) })
	if _, err := pool.Exec(t.Context(), `UPDATE pgsagaz.metrics_leader SET holder = 'another', until = clock_timestamp() + interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is silent", func() bool { return !leads(deposed) })
}

// TestFigures: the view has every figure that is exported, and a collector exports every row of the view.
func TestFigures(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	backlog(t, pool, 3000)
	for _, statement := range []string{
		`INSERT INTO pgsagaz.definition (name, version, graph) VALUES ('parcel', 1, '{}')`,
		`INSERT INTO pgsagaz.river_queue (name, metadata, updated_at) VALUES ('default', '{}', now())`,
		`INSERT INTO pgsagaz.river_job (kind, args, queue, state, scheduled_at, max_attempts, metadata)
		 VALUES ('k', '{}', 'default', 'available', now() - interval '1 minute', 1, '{}')`,
		`INSERT INTO pgsagaz.inbox_consumer (name, horizon) VALUES ('c', '1 day')`,
		`INSERT INTO pgsagaz.deadline (saga_id, due_at) VALUES (gen_random_uuid(), now() - interval '1 minute')`,
	} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	c, err := jobs.NewCollector(pool, jobs.CollectorConfig{Registry: registry, Every: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	eventually(t, "figures", func() bool { return figure(t, registry, "saga_workers") >= 0 })

	if n := figure(t, registry, "outbox_pending_events_total"); n != 3000 {
		t.Errorf("%v events are pending, want 3000", n)
	}
	if n := figure(t, registry, "outbox_oldest_pending_seconds", "t"); n <= 0 {
		t.Errorf("the oldest is %v seconds old", n)
	}
	for _, name := range []string{"river_queue_oldest_seconds", "saga_deadline_overdue_seconds"} {
		if n := figure(t, registry, name); n < 59 || n > 120 {
			t.Errorf("%s is %v, want some 60", name, n)
		}
	}
	rows, err := pool.Query(t.Context(), `SELECT name, count(*) FROM pgsagaz.metrics GROUP BY name ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	inView := map[string]int{}
	var name string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { inView[name] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if inView[f.GetName()] != len(f.GetMetric()) && f.GetName() != "pgsagaz_clock_offset_seconds" {
			t.Errorf("%s has %d series and %d rows in the view", f.GetName(), len(f.GetMetric()), inView[f.GetName()])
		}
		delete(inView, f.GetName())
	}
	if len(inView) > 0 {
		t.Errorf("in the view, and not exported: %v", inView)
	}
	if exported := len(families); exported != len(jobs.Figures()) {
		t.Errorf("%d of %d figures are exported", exported, len(jobs.Figures()))
	}
}

// backlog publishes n messages that nobody relays.
func backlog(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	messages := make([]outbox.Message, n)
	for i := range messages {
		messages[i] = outbox.Message{Topic: "t", Payload: []byte("{}")}
	}
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, messages...) }); err != nil {
		t.Fatal(err)
	}
}
