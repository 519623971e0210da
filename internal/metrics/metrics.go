// Package metrics is what the packages that export figures have in common: how they get them into the registry
// that they were given, and how they keep labels that are made of data from growing without bound.
package metrics

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers a collector, or gives back the one that is there already: those of one process share theirs. A nil
// registry takes nothing, and the collector counts for nobody. What goes wrong is joined to failed.
func Register[C prometheus.Collector](registry prometheus.Registerer, failed *error, c C) C {
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

// Counter registers a counter; see [Register].
func Counter(registry prometheus.Registerer, failed *error, name, help string, labels ...string) *prometheus.CounterVec {
	return Register(registry, failed, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

// Gauge registers a gauge; see [Register].
func Gauge(registry prometheus.Registerer, failed *error, name, help string, labels ...string) *prometheus.GaugeVec {
	return Register(registry, failed, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
}

// Histogram registers a histogram; see [Register].
func Histogram(registry prometheus.Registerer, failed *error, name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return Register(registry, failed, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels))
}

// Other is the label of all values beyond the bound of [Bounded].
const Other = "other"

// Bounded lets so many values be labels, and calls the rest [Other]: a value that is made of data would otherwise make a
// time series of each. Safe for concurrent use.
type Bounded struct {
	Most int

	mu   sync.Mutex
	seen map[string]bool
}

// Label is what the value is called. fresh: it is the first time that it has this label.
func (b *Bounded) Label(value string) (label string, fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[value] {
		return value, false
	}
	if b.seen == nil {
		b.seen = map[string]bool{}
	}
	if len(b.seen) >= b.Most {
		fresh = !b.seen[Other]
		b.seen[Other] = true
		return Other, fresh
	}
	b.seen[value] = true
	return value, true
}
