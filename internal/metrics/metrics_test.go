package metrics_test

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pgsagaz/pgsagaz/internal/metrics"
)

// TestRegister: two that ask for the same share it, one that asks for another under the same name is told so.
func TestRegister(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	var failed error
	metrics.Counter(registry, &failed, "c_total", "Help.", "l").WithLabelValues("a").Inc()
	metrics.Counter(registry, &failed, "c_total", "Help.", "l").WithLabelValues("a").Inc()
	if failed != nil {
		t.Fatal(failed)
	}
	if n := testutil.ToFloat64(metrics.Counter(registry, &failed, "c_total", "Help.", "l").WithLabelValues("a")); n != 2 {
		t.Errorf("the counter stands at %v, want 2", n)
	}
	metrics.Gauge(registry, &failed, "c_total", "Other help.", "l")
	if failed == nil {
		t.Error("a gauge under a counter's name is not refused")
	}
	failed = nil
	metrics.Histogram(nil, &failed, "h", "Help.", []float64{1}).WithLabelValues().Observe(1)
	if failed != nil {
		t.Error(failed)
	}
}

// TestBounded: no more labels than there may be, and each is new once.
func TestBounded(t *testing.T) {
	b := metrics.Bounded{Most: 3}
	news := map[string]int{}
	for range 2 {
		for i := range 10 {
			label, fresh := b.Label(fmt.Sprint(i))
			if want := fmt.Sprint(i); i < 3 && label != want || i >= 3 && label != metrics.Other {
				t.Errorf("%d is called %q", i, label)
			}
			if fresh {
				news[label]++
			}
		}
	}
	if len(news) != 4 || news["0"] != 1 || news[metrics.Other] != 1 {
		t.Errorf("new labels are %v", news)
	}
}
