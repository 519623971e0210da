package inbox_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/inbox"
)

func TestDecode(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		headers map[string]string
		body    string
		want    inbox.Message
		says    string
	}{
		"CloudEvent": {
			headers: map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_source": "/s", "ce_type": "t", "ce_partitionkey": "k", "ce_subject": "u",
				"ce_time": "2026-01-02T03:04:05Z", "ce_traceparent": trace, "traceparent": "a later one", "ce_sagaid": "s", "Tenant": "a", "pgsagaz-attempt": "2"},
			body: "x",
			want: inbox.Message{ID: "7", Source: "/s", Attempt: "2", Key: "k", Type: "t", Payload: []byte("x"), TraceParent: trace, Time: when,
				Headers: map[string]string{"ce_partitionkey": "k", "ce_traceparent": trace, "traceparent": "a later one", "ce_sagaid": "s", "ce_subject": "u",
					"tenant": "a", "pgsagaz-attempt": "2"}},
		},
		"structured CloudEvent": {
			headers: map[string]string{"content-type": "application/cloudevents+json", "traceparent": trace},
			body:    `{"specversion":"1.0","id":"7","source":"/s","type":"t","data":{"a":1}}`,
			want: inbox.Message{ID: "7", Source: "/s", Type: "t", Payload: []byte(`{"a":1}`), TraceParent: trace,
				Headers: map[string]string{"traceparent": trace}},
		},
		"sagaz": {
			body: `{"event_id":"8a7c","saga_id":"s-1","aggregate_id":"o-1","event_type":"OrderCreated","payload":{},"timestamp":"2026-01-02T03:04:05"}`,
			want: inbox.Message{ID: "8a7c", Source: "sagaz", Key: "o-1", Type: "OrderCreated", Payload: []byte(`{}`), Time: when,
				Headers: map[string]string{"ce_sagaid": "s-1", "ce_partitionkey": "o-1", "ce_subject": "o-1"}},
		},
		"plain": {
			headers: map[string]string{"A": "b"}, body: "x",
			want: inbox.Message{ID: "here", Source: "place", Payload: []byte("x"), Headers: map[string]string{"a": "b"}},
		},
		"no message": {
			headers: map[string]string{"ce_specversion": "1.0", "a": "b"}, body: "x", says: "no id",
			want: inbox.Message{ID: "here", Source: "place", Payload: []byte("x"), Headers: map[string]string{"a": "b"}},
		},
	} {
		got, err := inbox.Decode("topic", "here", c.headers, []byte(c.body))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		w := c.want
		if got.ID != w.ID || got.Source != w.Source || got.Attempt != w.Attempt || got.Topic != "topic" || got.Key != w.Key || got.Type != w.Type ||
			string(got.Payload) != string(w.Payload) || got.TraceParent != w.TraceParent || !got.Time.Equal(w.Time) || !maps.Equal(got.Headers, w.Headers) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, w)
		}
	}
}
