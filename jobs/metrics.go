package jobs

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/pgsagaz/pgsagaz/internal/metrics"
)

// workerMetrics are a worker's. Without a registry they are counted all the same, for nobody.
type workerMetrics struct {
	takeovers, lanes, sessions prometheus.Counter
	fetch                      *prometheus.HistogramVec
	fetched                    *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) (*workerMetrics, error) {
	var failed error
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metrics.Counter(registry, &failed, name, help, labels...)
	}
	m := &workerMetrics{
		takeovers: counter("saga_takeovers_total", "Dead workers whose lanes this one gave to others.").WithLabelValues(),
		lanes:     counter("saga_lanes_taken_over_total", "Lanes of dead workers that this one gave to others.").WithLabelValues(),
		sessions:  counter("saga_worker_sessions_lost_total", "How often the session was lost that shows that this worker lives.").WithLabelValues(),
		fetch: metrics.Histogram(registry, &failed, "river_job_get_available_duration_seconds",
			"How long River took to fetch jobs.", []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}, "queue"),
		fetched: counter("river_job_get_available_total", "Jobs that River has fetched.", "queue"),
	}
	return m, failed
}

// riverHook passes River's own metrics on.
type riverHook struct {
	river.HookDefaults
	*workerMetrics
}

// MetricEmit is called by River.
func (h *riverHook) MetricEmit(_ context.Context, p *rivertype.HookMetricEmitParams) {
	switch m := p.Metric.(type) {
	case *rivertype.JobGetAvailableDurationMetric:
		h.fetch.WithLabelValues(m.Queue).Observe(m.Duration.Seconds())
	case *rivertype.JobGetAvailableCountMetric:
		h.fetched.WithLabelValues(m.Queue).Add(float64(m.Count))
	}
}
