// Package bench measures pgsagaz against a floor: the least that any durable implementation of the same
// work must do, by hand, on the same server, in the same run. Machines are noisy, so the figure that
// counts is the ratio of the two; they take turns, and each ratio is of two rounds side by side.
package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Result is one concurrency of one benchmark.
type Result struct {
	Name        string  `json:"name"`
	Steps       int     `json:"steps"`
	Concurrency int     `json:"concurrency"`
	Rounds      int     `json:"rounds"`
	Engine      Figures `json:"engine"`
	Floor       Figures `json:"floor"`
	// Ratio is the engine's throughput over the floor's, the median of the rounds.
	Ratio float64 `json:"ratio"`
	// LatencyRatio is the engine's p50 over the floor's, the median of the rounds.
	LatencyRatio float64   `json:"latency_ratio"`
	Ratios       []float64 `json:"ratios"` // of the single rounds
	// What one saga takes; only of some benchmarks.
	EngineCost Cost `json:"engine_cost,omitzero"`
	FloorCost  Cost `json:"floor_cost,omitzero"`
}

// Figures are the medians over the rounds.
type Figures struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// Options of a benchmark. The zero value of each field is its default.
type Options struct {
	Steps       int           // of a saga; 0: 5
	Concurrency []int         // how many in flight, one result each; nil: 1, 64
	Duration    time.Duration // of one round of one side; 0: 3 s
	Rounds      int           // 0: 3
	Logger      *slog.Logger  // of the engine; nil: slog.Default()
	// Profile is a directory for CPU profiles of the engine's rounds, and for the SQL they took longest over. It is made if need be, and
	// so is the extension pg_stat_statements. "": none.
	Profile string
	// Progress is told what is being measured; nil: nobody.
	Progress func(string)
}

func (o Options) withDefaults() Options {
	if o.Steps == 0 {
		o.Steps = 5
	}
	if len(o.Concurrency) == 0 {
		o.Concurrency = []int{1, 64}
	}
	if o.Duration == 0 {
		o.Duration = 3 * time.Second
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o
}

// side is one of the two: it does one unit of work and says how long it took, from the asking to the end.
type side func(ctx context.Context) error

// pair measures engine and floor in turns, and with g what they cost.
func pair(ctx context.Context, o Options, g *gauge, name string, concurrency int, engine, floor side) (Result, error) {
	r := Result{Name: name, Steps: o.Steps, Concurrency: concurrency, Rounds: o.Rounds}
	var engines, floors []Figures
	var engineUnits, floorUnits float64
	spend := func(work side, duration time.Duration, total *Cost, units *float64) (Figures, error) {
		before, err := g.read(ctx)
		if err != nil {
			return Figures{}, err
		}
		f, n, err := measure(ctx, duration, concurrency, work)
		if err != nil {
			return f, err
		}
		after, err := g.read(ctx)
		*total, *units = total.plus(after, 1).plus(before, -1), *units+float64(n)
		return f, err
	}
	profile, err := newProfile(ctx, o, g, name, concurrency)
	if err != nil {
		return r, err
	}
	// A first short round of each warms caches, connections and plans, and is not counted.
	for round := -1; round < o.Rounds; round++ {
		duration := o.Duration
		if round < 0 {
			duration = min(duration, time.Second)
		}
		if round == 0 {
			r.EngineCost, r.FloorCost, engineUnits, floorUnits = Cost{}, Cost{}, 0, 0
		}
		profiled := profile
		if round < 0 {
			profiled = nil
		}
		o.Progress(fmt.Sprintf("%s, %d in flight: round %d of %d", name, concurrency, round+1, o.Rounds))
		f, err := spend(floor, duration, &r.FloorCost, &floorUnits)
		if err != nil {
			return r, fmt.Errorf("floor: %w", err)
		}
		end, err := profiled.begin(ctx, round)
		if err != nil {
			return r, err
		}
		e, err := spend(engine, duration, &r.EngineCost, &engineUnits)
		if err = errors.Join(err, end()); err != nil {
			return r, fmt.Errorf("engine: %w", err)
		}
		if round >= 0 {
			engines, floors = append(engines, e), append(floors, f)
		}
	}
	if err := profile.write(engineUnits); err != nil {
		return r, err
	}
	var latencies []float64
	for i := range engines {
		r.Ratios = append(r.Ratios, engines[i].PerSecond/floors[i].PerSecond)
		latencies = append(latencies, engines[i].P50/floors[i].P50)
	}
	r.Ratio, r.LatencyRatio = median(r.Ratios), median(latencies)
	r.Engine, r.Floor = medians(engines), medians(floors)
	r.EngineCost, r.FloorCost = r.EngineCost.each(engineUnits), r.FloorCost.each(floorUnits)
	return r, nil
}

// measure keeps concurrency of work in flight for duration, and waits for the last to end. n: how often it was done.
func measure(ctx context.Context, duration time.Duration, concurrency int, work side) (f Figures, n int, err error) {
	return measureAt(ctx, duration, concurrency, 0, work)
}

// measureAt has each in flight rest after its work, which is not counted.
func measureAt(ctx context.Context, duration time.Duration, concurrency int, rest time.Duration, work side) (f Figures, n int, err error) {
	var mu sync.Mutex
	var took []float64
	var failed error
	begun := time.Now()
	end := begun.Add(duration)
	var wg sync.WaitGroup
	for range concurrency {
		wg.Go(func() {
			for time.Now().Before(end) {
				t := time.Now()
				err := work(ctx)
				mu.Lock()
				if err != nil {
					failed = err
					mu.Unlock()
					return
				}
				took = append(took, milliseconds(time.Since(t)))
				mu.Unlock()
				time.Sleep(rest)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(begun)
	if failed != nil {
		return Figures{}, 0, failed
	}
	sorted(took)
	return Figures{PerSecond: float64(len(took)) / elapsed.Seconds(), P50: quantile(took, 0.5), P99: quantile(took, 0.99)}, len(took), nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func sorted(v []float64) { slices.Sort(v) }

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return quantile(v, 0.5)
}

func medians(fs []Figures) Figures {
	pick := func(f func(Figures) float64) float64 {
		var v []float64
		for _, x := range fs {
			v = append(v, f(x))
		}
		return median(v)
	}
	return Figures{
		PerSecond: pick(func(f Figures) float64 { return f.PerSecond }),
		P50:       pick(func(f Figures) float64 { return f.P50 }),
		P99:       pick(func(f Figures) float64 { return f.P99 }),
	}
}

// prepare makes the tables that both sides write.
func prepare(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `
		CREATE SCHEMA IF NOT EXISTS pgsagaz_bench;
		CREATE TABLE IF NOT EXISTS pgsagaz_bench.effect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, saga uuid NOT NULL, step text NOT NULL);
		CREATE TABLE IF NOT EXISTS pgsagaz_bench.state (saga uuid NOT NULL, step text NOT NULL, result json, PRIMARY KEY (saga, step));
	`)
	return err
}
