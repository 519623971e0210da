package monitoring

import (
	"io"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

var (
	forClause = regexp.MustCompile(`(?m)^ +for: .*\n`)
	interval  = regexp.MustCompile(`(?m)^    interval: .*\n`)
	span      = regexp.MustCompile(`\[[0-9]+m\]`)
	// Thresholds that are times.
	longTime = strings.NewReplacer("pgsagaz_oldest_transaction_seconds[20s])) > 1800", "pgsagaz_oldest_transaction_seconds[20s])) > 1",
		"outbox_oldest_pending_seconds[20s])) > 60", "outbox_oldest_pending_seconds[20s])) > 1")
)

// hasty are the rules, made for a test that has no minutes: what has to last lasts seconds, and no expression is another.
func hasty(t *testing.T) string {
	t.Helper()
	text := read(t, "k8s", "rules", "pgsagaz.rules.yaml")
	text = span.ReplaceAllString(interval.ReplaceAllString(forClause.ReplaceAllString(text, ""), ""), "[20s]")
	quick := longTime.Replace(text)
	if strings.Contains(quick, "> 1800") || strings.Contains(quick, "outbox_oldest_pending_seconds[20s])) > 60") {
		t.Fatal("the rules' times have changed, and this test does not know them any more")
	}
	return quick
}

// TestMonitoring brings a system into all the faults that it is watched for. Each alert fires; the dashboard, asked meanwhile, has no
// empty panel; and what is exported is what the documentation says, with its labels.
func TestMonitoring(t *testing.T) {
	p := newPrometheus(t, hasty(t))
	s := newSystem(t)
	gone := freeAddress(t) // a worker that does not answer
	p.scrape(map[string][]string{"outbox-worker": {s.worker, gone}, "shop": {s.consumer}})

	// First some life, so that every type has been seen and every counter been scraped.
	s.start(order{}, 5, nil)
	s.start(order{Fail: true}, 2, nil)
	s.publish("bad", 1)
	s.receive("good", 5)
	s.receive("flaky", 1)
	for _, expression := range []string{
		`sum(saga_execution_total{status="completed"}) >= 5`, `sum(saga_takeovers_total) == 0`, `sum(outbox_dead_letter_events_total) == 1`,
		`sum(consumer_inbox_duplicates_total) >= 5`, `max(saga_workers) == 1`,
	} {
		eventually(t, expression, func() bool { return len(p.query(expression)) > 0 })
	}

	s.hold()
	s.start(order{Jam: true}, 1, nil)
	s.start(order{Slow: true}, 1, &pgengine.StartOptions{Timeout: 100 * time.Millisecond})
	s.kill(6)
	s.publish("bad", 20)
	s.receive("bad", 1)

	fired := map[string]bool{}
	waitFor := func(names ...string) {
		t.Helper()
		eventually(t, "alerts "+strings.Join(names, ", "), func() bool {
			for _, a := range p.query(`ALERTS{alertstate="firing"}`) {
				fired[a.labels["alertname"]] = true
			}
			return !slices.ContainsFunc(names, func(n string) bool { return !fired[n] })
		})
	}
	waitFor("SagaStuck", "SagaDeadlineMissed", "WorkerTakeoverStorm", "OutboxDeadLetterQueue", "OutboxHighErrorRate", "InboxDeadLetters", "XminHeldBack", "OutboxWorkerUnhealthy")

	s.broker.slow.Store(true)
	busy := func() {
		s.start(order{}, 2, nil)
		s.start(order{Fail: true}, 1, nil)
	}
	eventually(t, "OutboxHighLatency", func() bool {
		busy()
		time.Sleep(200 * time.Millisecond)
		return len(p.query(`ALERTS{alertname="OutboxHighLatency",alertstate="firing"}`)) > 0
	})
	fired["OutboxHighLatency"] = true
	s.broker.slow.Store(false)
	s.receive("good", 5)
	t.Run("dashboard", func(t *testing.T) { dashboard(t, p, busy) })
	t.Run("metrics", func(t *testing.T) { exported(t, s.worker, s.consumer) })

	s.broker.down.Store(true)
	s.publish("order.reserved", 6000)
	s.start(order{}, 20, nil)
	s.receive("block", 6000) // twice each
	waitFor("OutboxHighLag", "OutboxOldestAge", "OutboxWorkerIdle", "OptimisticSendHighFailureRate", "InboxLag")

	s.stopWorker()
	waitFor("OutboxWorkerDown")
	for _, r := range readRules(t) {
		if !fired[r.Alert] {
			t.Errorf("%s has not fired", r.Alert)
		}
	}
}

// dashboard asks for what each panel asks for. Not a number is no answer: nothing would be drawn.
func dashboard(t *testing.T, p *prometheus, busy func()) {
	for _, panel := range panels(t) {
		for _, query := range panel.queries {
			query = strings.ReplaceAll(query, "$__rate_interval", "30s")
			eventually(t, panel.title+": "+query, func() bool {
				if slices.ContainsFunc(p.query(query), func(s sample) bool { return !math.IsNaN(s.value) }) {
					return true
				}
				busy()
				return false
			})
		}
	}
}

// exported compares what is scraped with what is documented.
func exported(t *testing.T, addresses ...string) {
	known := documented(t)
	for _, address := range addresses {
		for name, f := range scrape(t, address) {
			if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
				continue
			}
			want, ok := known[name]
			if !ok {
				if _, again := documented(t)[name]; !again {
					t.Errorf("%s is exported, and not documented in docs/metrics.md", name)
				}
				continue
			}
			labels := map[string]bool{}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = true
				}
			}
			got := family{strings.ToLower(f.GetType().String()), slices.Sorted(maps.Keys(labels))}
			if got.kind != want.kind || !slices.Equal(got.labels, want.labels) {
				t.Errorf("%s is a %s with labels %v; docs/metrics.md says a %s with %v", name, got.kind, got.labels, want.kind, want.labels)
			}
			delete(known, name)
		}
	}
	for name := range known {
		t.Errorf("%s is documented, and not exported", name)
	}
}

func scrape(t *testing.T, address string) map[string]*dto.MetricFamily {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return families
}
