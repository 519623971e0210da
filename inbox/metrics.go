package inbox

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsagaz/pgsagaz/internal/metrics"
)

// consumerMetrics are a consumer's. Two consumers of one registry share the collectors.
type consumerMetrics struct {
	processed, duplicates, retries, dead *prometheus.CounterVec // by event_type
	duration                             prometheus.ObserverVec // by event_type
	lag, inFlight                        prometheus.Gauge

	types metrics.Bounded
}

func newMetrics(r prometheus.Registerer, consumer string, most int) (*consumerMetrics, error) {
	var failed error
	own := prometheus.Labels{"consumer_name": consumer}
	counter := func(name, help string) *prometheus.CounterVec {
		return metrics.Counter(r, &failed, name, help, "consumer_name", "event_type").MustCurryWith(own)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return metrics.Gauge(r, &failed, name, help, "consumer_name").With(own)
	}
	m := &consumerMetrics{
		processed:  counter("consumer_inbox_processed_total", "Events that took effect."),
		duplicates: counter("consumer_inbox_duplicates_total", "Deliveries of events that had taken effect before."),
		retries:    counter("consumer_inbox_retries_total", "Attempts at an event that failed and are followed by another."),
		dead:       counter("consumer_inbox_dead_total", "Events that were given up: dead-lettered."),
		duration: metrics.Histogram(r, &failed, "consumer_inbox_processing_duration_seconds", "How long the handlers of events that took effect ran.",
			[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "consumer_name", "event_type").MustCurryWith(own),
		lag:      gauge("consumer_inbox_lag", "Messages that wait at the broker, as far as this process is to have them."),
		inFlight: gauge("consumer_inbox_in_flight", "Messages that were fetched and are not dealt with."),
		types:    metrics.Bounded{Most: most},
	}
	return m, failed
}

// label bounds what is unbounded. The series of a type begin at 0: of a counter that begins above it nobody sees an increase.
func (m *consumerMetrics) label(eventType string) string {
	label, fresh := m.types.Label(clean(eventType))
	if fresh {
		for _, c := range []*prometheus.CounterVec{m.processed, m.duplicates, m.retries, m.dead} {
			c.WithLabelValues(label)
		}
	}
	return label
}

func (m *consumerMetrics) done(o outcome, eventType string, took time.Duration) {
	label := m.label(eventType)
	switch o {
	case firstTime:
		m.processed.WithLabelValues(label).Inc()
		m.duration.WithLabelValues(label).Observe(took.Seconds())
	case duplicate:
		m.duplicates.WithLabelValues(label).Inc()
	}
}
