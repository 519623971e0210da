package outbox

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a relay's. Without a registry they are counted all the same, for nobody.
type metrics struct {
	attempts, success prometheus.Counter
	failures          *prometheus.CounterVec
	latency           prometheus.Histogram

	published, failed, dead *prometheus.CounterVec
	retries, missed         prometheus.Counter
	batch, took             prometheus.Histogram
	pending, lag            prometheus.Gauge
	stuck, buckets          prometheus.Gauge
}

var latencyBuckets = []float64{.001, .002, .003, .005, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	var failed error
	counter := func(name, help string) prometheus.Counter {
		return register(registry, &failed, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return register(registry, &failed, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return register(registry, &failed, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return register(registry, &failed, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}))
	}
	m := &metrics{
		attempts:  counter("outbox_optimistic_send_attempts_total", "Events whose publishing was tried right after their commit."),
		success:   counter("outbox_optimistic_send_success_total", "Those of them that the broker acknowledged at once."),
		failures:  vec("outbox_optimistic_send_failures_total", "Those of them that it did not; they leave with the poll.", "reason"),
		latency:   histogram("outbox_optimistic_send_latency_seconds", "From the commit of an event to the broker's acknowledgement, of those that left at once.", latencyBuckets),
		published: vec("outbox_published_events_total", "Events that the broker has acknowledged.", "event_type"),
		failed:    vec("outbox_failed_events_total", "Failed attempts: rejected (the event's fault) or broker.", "reason"),
		dead:      vec("outbox_dead_letter_events_total", "Events that were given up.", "event_type"),
		retries:   counter("outbox_retry_attempts_total", "Attempts after the first, of rejected events."),
		missed:    counter("outbox_wakes_missed_total", "Polls that found events which no wake had told of."),
		batch:     histogram("outbox_batch_size", "Events of a call to the broker.", []float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000}),
		took:      histogram("outbox_publish_duration_seconds", "How long a call to the broker took.", latencyBuckets),
		pending:   gauge("outbox_pending_events_total", "Events of this relay's buckets that are not acknowledged: those it has read, and an estimate of those it has not."),
		lag:       gauge("outbox_lag_seconds", "Age of the oldest event that this relay has read and that is not acknowledged; 0: none."),
		stuck:     gauge("outbox_stuck_keys", "Keys that wait for an event which was rejected."),
		buckets:   gauge("outbox_buckets", "Buckets that this relay publishes, of 256."),
	}
	return m, failed
}

// optimistic counts the attempt to publish an event right after its commit. late: the call took longer than it may; age: of the
// event, when the broker had answered.
func (m *metrics) optimistic(err error, late bool, age time.Duration) {
	m.attempts.Inc()
	switch {
	case err == nil:
		m.success.Inc()
		m.latency.Observe(seconds(age))
	case errors.As(err, new(*RejectedError)):
		m.failures.WithLabelValues("rejected").Inc()
	case errors.Is(err, ErrHeld):
		m.failures.WithLabelValues("held").Inc()
	case late:
		m.failures.WithLabelValues("timeout").Inc()
	default:
		m.failures.WithLabelValues("broker").Inc()
	}
}

// register gives back the collector that is there already: relays of one process share theirs.
func register[C prometheus.Collector](registry prometheus.Registerer, failed *error, c C) C {
	if registry == nil {
		return c
	}
	if err := registry.Register(c); err != nil {
		if before, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			if same, ok := before.ExistingCollector.(C); ok {
				return same
			}
		}
		*failed = errors.Join(*failed, err)
	}
	return c
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
