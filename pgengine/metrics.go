package pgengine

import (
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsagaz/pgsagaz/internal/metrics"
	"github.com/pgsagaz/pgsagaz/sql"
)

// engineMetrics are an engine's. Without a registry they are counted all the same, for nobody.
type engineMetrics struct {
	started, executions, compensations, deadlines, lost *prometheus.CounterVec
	failures                                            *prometheus.CounterVec
	unknown                                             prometheus.Counter
	duration, steps, undos                              *prometheus.HistogramVec
	active                                              *prometheus.GaugeVec

	sagas map[*graph]*sagaMetrics
}

// sagaMetrics are those of one definition, looked up once: a step costs an Inc and an Observe.
type sagaMetrics struct {
	ended                          map[State]prometheus.Counter
	compensations, deadlines, lost prometheus.Counter
	duration                       prometheus.Observer
	active                         prometheus.Gauge
	steps, undos                   []prometheus.Observer // by node
}

var (
	sagaSeconds = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600}
	stepSeconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
)

func newMetrics(registry prometheus.Registerer) (*engineMetrics, error) {
	var failed error
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metrics.Counter(registry, &failed, name, help, labels...)
	}
	m := &engineMetrics{
		started: counter("saga_started_total", "Sagas that were started here, those whose transaction rolled back included.", "saga_name"),
		executions: counter("saga_execution_total",
			"Sagas that came to an end, by how: completed or compensated. And how often one became stuck, which is no end.", "saga_name", "status"),
		compensations: counter("saga_compensations_total", "Steps that were undone.", "saga_name"),
		deadlines:     counter("saga_deadlines_missed_total", "Sagas that turned back since they had not ended by their deadline.", "saga_name"),
		failures:      counter("saga_step_failures_total", "Failed attempts at steps and their undos, by kind: error, timeout, panic or crash.", "saga_name", "step_name", "kind"),
		lost:          counter("saga_lanes_lost_total", "Lanes that others had taken over when this process came back to them.", "saga_name"),
		unknown:       counter("saga_commit_unknown_total", "Commits whose answer was lost, so that the lane's row was asked what had become of them.").WithLabelValues(),
		duration:      metrics.Histogram(registry, &failed, "saga_execution_duration_seconds", "From a saga's start to its end.", sagaSeconds, "saga_name"),
		steps: metrics.Histogram(registry, &failed, "saga_step_duration_seconds",
			"How long the attempts took by which steps were done.", stepSeconds, "saga_name", "step_name"),
		undos: metrics.Histogram(registry, &failed, "saga_compensation_duration_seconds",
			"How long the attempts took by which steps were undone.", stepSeconds, "saga_name", "step_name"),
		active: metrics.Gauge(registry, &failed, "saga_active_count",
			"Sagas that this process is driving right now; one with parallel branches counts once for each that is driven.", "saga_name"),
		sagas: map[*graph]*sagaMetrics{},
	}
	return m, failed
}

// know makes the series of a definition. They begin at 0, so that the first of anything is an increase.
func (m *engineMetrics) know(g *graph) {
	s := &sagaMetrics{
		ended:         map[State]prometheus.Counter{},
		compensations: m.compensations.WithLabelValues(g.name), deadlines: m.deadlines.WithLabelValues(g.name), lost: m.lost.WithLabelValues(g.name),
		duration: m.duration.WithLabelValues(g.name), active: m.active.WithLabelValues(g.name),
	}
	m.started.WithLabelValues(g.name)
	for _, state := range []State{Completed, Compensated, Stuck} {
		s.ended[state] = m.executions.WithLabelValues(g.name, string(state))
	}
	for _, n := range g.nodes {
		m.failures.WithLabelValues(g.name, n.name, "error")
		s.steps = append(s.steps, m.steps.WithLabelValues(g.name, n.name))
		s.undos = append(s.undos, m.undos.WithLabelValues(g.name, n.name))
	}
	m.sagas[g] = s
}

// settled counts what a settlement has committed.
func (m *engineMetrics) settled(s *settlement) {
	of := m.sagas[s.g]
	if s.lane != nil && s.rec != nil && s.rec.outcome == "done" {
		switch s.at.direction {
		case Do:
			of.steps[s.at.node].Observe(s.rec.took.Seconds())
		case Undo:
			of.compensations.Inc()
			of.undos[s.at.node].Observe(s.rec.took.Seconds())
		}
	}
	if s.late() {
		of.deadlines.Inc()
	}
	if ended := of.ended[s.state]; ended != nil {
		ended.Inc()
		if s.state.Ended() {
			of.duration.Observe(max(0, time.Since(s.born).Seconds()))
		}
	}
}

// fused counts the steps of a fusion.
func (m *engineMetrics) fused(g *graph, steps []fused) {
	of := m.sagas[g]
	for _, s := range steps {
		of.steps[g.index[s.name]].Observe(s.rec.took.Seconds())
	}
}

// late: it is for its deadline that the saga turns back with this settlement, also where a step was cut off by it and has failed.
func (s *settlement) late() bool {
	if s.cause == nil {
		return false
	}
	return s.cause.Kind == CauseDeadline || s.lane != nil && !s.lane.deadline.IsZero() && !time.Now().Before(s.lane.deadline)
}

// unanswered counts a commit whose outcome nobody knows: Postgres said nothing, and something had been sent.
func (m *engineMetrics) unanswered(err error) {
	if sql.State(err) == "" && !pgconn.SafeToRetry(err) {
		m.unknown.Inc()
	}
}
