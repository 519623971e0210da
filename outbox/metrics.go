package outbox

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsagaz/pgsagaz/internal/metrics"
)

// relayMetrics are a relay's. Without a registry they are counted all the same, for nobody.
type relayMetrics struct {
	attempts, success prometheus.Counter
	failures          *prometheus.CounterVec // by reason
	latency           prometheus.Histogram

	published, dead, failed   *prometheus.CounterVec // by event_type; failed also by reason
	took                      prometheus.ObserverVec // by event_type
	batches, retries          prometheus.Counter
	missed                    prometheus.Counter
	taken, fenced             prometheus.Counter
	batchSize                 prometheus.Observer
	lastBatch                 prometheus.Gauge
	pending, lag, outstanding prometheus.Gauge
	stuck, buckets            prometheus.Gauge

	types metrics.Bounded
}

// mostTypes is how many types of events get a label of their own.
const mostTypes = 100

var latencyBuckets = []float64{.001, .002, .003, .005, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5}

// newMetrics makes or finds the series of the relay of that name.
func newMetrics(registry prometheus.Registerer, name string) (*relayMetrics, error) {
	var failed error
	own := prometheus.Labels{"worker_id": name}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metrics.Counter(registry, &failed, name, help, append([]string{"worker_id"}, labels...)...).MustCurryWith(own)
	}
	counter := func(name, help string) prometheus.Counter { return vec(name, help).WithLabelValues() }
	gauge := func(name, help string) prometheus.Gauge {
		return metrics.Gauge(registry, &failed, name, help, "worker_id").With(own)
	}
	plain := func(name, help string, labels ...string) *prometheus.CounterVec {
		return metrics.Counter(registry, &failed, name, help, labels...)
	}
	m := &relayMetrics{
		attempts: plain("outbox_optimistic_send_attempts_total", "Events whose publishing was tried right after their commit.").WithLabelValues(),
		success:  plain("outbox_optimistic_send_success_total", "Those of them that the broker acknowledged at once.").WithLabelValues(),
		failures: plain("outbox_optimistic_send_failures_total", "Those of them that it did not; they leave with the poll.", "reason"),
		latency: metrics.Register(registry, &failed, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_optimistic_send_latency_seconds", Buckets: latencyBuckets,
			Help: "From the writing of an event, moments before its commit, to the broker's acknowledgement, of those that left at once."})),

		published: vec("outbox_published_events_total", "Events that the broker has acknowledged.", "event_type"),
		failed:    vec("outbox_failed_events_total", "Failed attempts, by reason: rejected (the event's fault) or broker.", "event_type", "reason"),
		dead:      vec("outbox_dead_letter_events_total", "Events that were given up.", "event_type"),
		took: metrics.Histogram(registry, &failed, "outbox_publish_duration_seconds",
			"How long a call to the broker took, once for each type of event in it.", latencyBuckets, "worker_id", "event_type").MustCurryWith(own),
		batches: counter("outbox_batch_processed_total", "Calls to the broker."),
		retries: counter("outbox_retry_attempts_total", "Attempts after the first, of rejected events."),
		missed:  counter("outbox_wakes_missed_total", "Polls that found events which no wake had told of."),
		taken:   counter("outbox_buckets_taken_total", "Buckets that this relay has taken over, of 256."),
		fenced:  counter("outbox_leases_lost_total", "How often this relay found that it had been silent for too long, and began anew."),
		batchSize: metrics.Histogram(registry, &failed, "outbox_publish_batch_size", "Events of a call to the broker.",
			[]float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000}, "worker_id").With(own),
		lastBatch:   gauge("outbox_batch_size", "Events of the latest call to the broker."),
		pending:     gauge("outbox_relay_pending_events", "Events of this relay's buckets that are not acknowledged: those it has read, and an estimate of those it has not."),
		outstanding: gauge("outbox_processing_events_total", "Events that this relay has read and that are not acknowledged."),
		lag:         gauge("outbox_lag_seconds", "Age of the oldest event that this relay has read and that is not acknowledged; 0: none."),
		stuck:       gauge("outbox_stuck_keys", "Keys that wait for an event which was rejected."),
		buckets:     gauge("outbox_buckets", "Buckets that this relay publishes, of 256."),
		types:       metrics.Bounded{Most: mostTypes},
	}
	for _, reason := range []string{"broker", "timeout", "rejected", "held"} {
		m.failures.WithLabelValues(reason)
	}
	return m, failed
}

// optimistic counts the attempt to publish an event right after its commit. late: the call took longer than it may; age: of the
// event, when the broker had answered.
func (m *relayMetrics) optimistic(err error, late bool, age time.Duration) {
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

// kind is the label of an event's type. The series that only failures would begin are there from its first event on, at 0:
// of a counter that begins above it nobody sees an increase.
func (m *relayMetrics) kind(eventType string) string {
	label, fresh := m.types.Label(eventType)
	if fresh {
		m.dead.WithLabelValues(label)
		m.failed.WithLabelValues(label, "broker")
		m.failed.WithLabelValues(label, "rejected")
	}
	return label
}

// calling makes the series of the types in a call, before it can fail.
func (m *relayMetrics) calling(events []Event) {
	for _, e := range events {
		m.kind(e.Type)
	}
}

// called counts a call that the broker has answered.
func (m *relayMetrics) called(events []Event, took time.Duration) {
	m.batches.Inc()
	m.batchSize.Observe(float64(len(events)))
	m.lastBatch.Set(float64(len(events)))
	kinds := map[string]bool{}
	for _, e := range events {
		if kind := m.kind(e.Type); !kinds[kind] {
			kinds[kind] = true
			m.took.WithLabelValues(kind).Observe(seconds(took))
		}
	}
}

// gone takes away what a relay that has stopped would otherwise be said to hold.
func (m *relayMetrics) gone() {
	for _, g := range []prometheus.Gauge{m.pending, m.outstanding, m.lag, m.stuck, m.buckets} {
		g.Set(0)
	}
}

func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
