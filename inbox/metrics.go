package inbox

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// otherType is the label of all types beyond Config.EventTypes: a type that is made from data would
// otherwise make a time series a message.
const otherType = "other"

// metrics are a consumer's. Two consumers of one registry share the collectors.
type metrics struct {
	processed, duplicates, retries, dead *prometheus.CounterVec
	duration                             *prometheus.HistogramVec
	lag, inFlight                        prometheus.Gauge

	consumer string
	mu       sync.Mutex
	types    map[string]bool // that have a label of their own
	most     int
}

func newMetrics(r prometheus.Registerer, consumer string, most int) (*metrics, error) {
	labels := []string{"consumer_name", "event_type"}
	m := &metrics{
		processed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "consumer_inbox_processed_total", Help: "Events that took effect."}, labels),
		duplicates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "consumer_inbox_duplicates_total", Help: "Deliveries of events that had taken effect before."}, labels),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "consumer_inbox_retries_total", Help: "Attempts at an event that failed and are followed by another."}, labels),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "consumer_inbox_dead_total", Help: "Events that were given up: dead-lettered."}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "consumer_inbox_processing_duration_seconds", Help: "How long the handlers of events that took effect ran.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, labels),
		consumer: consumer, most: most, types: map[string]bool{},
	}
	lag := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "consumer_inbox_lag", Help: "Messages that wait at the broker."}, labels[:1])
	inFlight := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "consumer_inbox_in_flight", Help: "Messages that were fetched and are not dealt with."}, labels[:1])
	err := errors.Join(
		register(r, &m.processed), register(r, &m.duplicates), register(r, &m.retries), register(r, &m.dead),
		register(r, &m.duration), register(r, &lag), register(r, &inFlight))
	m.lag, m.inFlight = lag.WithLabelValues(consumer), inFlight.WithLabelValues(consumer)
	return m, err
}

// register registers a collector, or takes the one that is there.
func register[C prometheus.Collector](r prometheus.Registerer, c *C) error {
	if r == nil {
		return nil
	}
	err := r.Register(*c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := there.ExistingCollector.(C); ok {
			*c = same
			return nil
		}
	}
	return err
}

// label bounds what is unbounded.
func (m *metrics) label(eventType string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.types[eventType] {
		if len(m.types) >= m.most {
			return otherType
		}
		m.types[eventType] = true
	}
	return clean(eventType)
}

func (m *metrics) done(o outcome, eventType string, took time.Duration) {
	label := m.label(eventType)
	switch o {
	case firstTime:
		m.processed.WithLabelValues(m.consumer, label).Inc()
		m.duration.WithLabelValues(m.consumer, label).Observe(took.Seconds())
	case duplicate:
		m.duplicates.WithLabelValues(m.consumer, label).Inc()
	}
}
