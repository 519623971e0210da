package jobs

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// figure is a metric of the whole system, as the view pgsagaz.metrics names it.
type figure struct {
	name, help string
	labels     []string
}

var allFigures = []figure{
	{"saga_stuck", "Sagas that wait for an operator; at most 10,000 are counted.", []string{"saga_name"}},
	{"saga_deadline_overdue_seconds", "For how long the oldest deadline that nobody has seen to has been due; 0: there is none.", nil},
	{"saga_workers", "Workers that live.", nil},
	{"river_queue_oldest_seconds", "For how long the oldest job of a queue has waited for a worker.", []string{"queue"}},

	{"outbox_pending_events_total", "Events that are committed and not published, of the whole outbox: as far as the cursors are behind.", nil},
	{"outbox_oldest_pending_seconds", "Age of the oldest event of a topic that is committed and not published. Without a topic, and 0: nothing is pending.", []string{"topic"}},
	{"outbox_events_by_state", "Events that are pending, stuck (behind one that is rejected), scheduled, or dead_letter; but for the pending ones at most 10,000 are counted.", []string{"state"}},
	{"outbox_relays", "Relays that live.", nil},
	{"outbox_slots_in_use", "Parts of the outbox's table that hold rows, of 4. With 4 for long, nothing can be emptied.", nil},

	{"consumer_inbox_dead_letters", "Messages that were given up and wait for an operator; at most 10,000 are counted.", []string{"consumer_name"}},
	{"consumer_inbox_failing", "Messages that have failed and are tried again; at most 10,000 are counted.", []string{"consumer_name"}},

	{"pgsagaz_xmin_age_transactions", "Transactions since the oldest snapshot that is held on the server: nothing that died since can be cleaned up.", nil},
	{"pgsagaz_oldest_transaction_seconds", "Age of the oldest open transaction.", nil},
	{"pgsagaz_prepared_transactions", "Prepared transactions that wait for their end.", nil},
	{"pgsagaz_notify_queue_ratio", "How full the server's queue of NOTIFY is, 0 to 1. At 1 every commit with a NOTIFY fails.", nil},
	{"pgsagaz_dead_tuples", "Dead rows that wait to be cleaned up.", []string{"table"}},
	{"pgsagaz_table_bytes", "Size of a table with its indexes.", []string{"table"}},
	{"pgsagaz_clock_offset_seconds", "How far the database's clock is ahead of that of the process which reads it.", nil},
}

// reading is a row of the view.
type reading struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// figures export what was read last, for as long as this process leads: two that did would count everything twice.
type figures struct {
	descs map[string]*prometheus.Desc

	mu       sync.Mutex
	readings []reading
	until    time.Time
}

func newFigures() *figures {
	f := &figures{descs: map[string]*prometheus.Desc{}}
	for _, m := range allFigures {
		f.descs[m.name] = prometheus.NewDesc(m.name, m.help, m.labels, nil)
	}
	return f
}

// set replaces what is exported, until a time; the zero time: nothing.
func (f *figures) set(all []reading, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readings, f.until = all, until
}

// Describe is the registry's.
func (f *figures) Describe(to chan<- *prometheus.Desc) {
	for _, d := range f.descs {
		to <- d
	}
}

// Collect is the registry's.
func (f *figures) Collect(to chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !time.Now().Before(f.until) {
		return
	}
	for _, m := range allFigures {
		for _, r := range f.readings {
			if r.Name != m.name {
				continue // a later schema may have more
			}
			values := make([]string, len(m.labels))
			for i, label := range m.labels {
				values[i] = r.Labels[label]
			}
			if metric, err := prometheus.NewConstMetric(f.descs[m.name], prometheus.GaugeValue, r.Value, values...); err == nil {
				to <- metric // values of Postgres are valid UTF-8, and there are as many as labels
			}
		}
	}
}
