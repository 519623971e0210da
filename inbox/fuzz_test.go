package inbox_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// FuzzMessage: whatever a broker delivers is a message with an id, or says why it is none and keeps what came.
func FuzzMessage(f *testing.F) {
	f.Add("orders", "orders/0/17", "ce_specversion", "1.0", "ce_id", "7", []byte("x"))
	f.Add("t", "p", "content-type", "application/cloudevents+json", "traceparent", "00-x", []byte(`{"specversion":"1.0","id":"7","source":"/s","type":"t","data":{"a":1}}`))
	f.Add("t", "p", "content-type", "application/cloudevents+json", "", "", []byte(strings.Repeat(`{"a":`, 5000)+"1"+strings.Repeat("}", 5000)))
	f.Add("t", "p", "content-type", "application/cloudevents-batch+json", "", "", []byte("[]"))
	f.Add("", "", "", "", "", "", []byte(`{"event_id":"8a7c","saga_id":"s","event_type":"T","payload":null}`))
	f.Add("\x00", "'; DROP TABLE x; --", "\xff", "\xfe", "ce_specversion", "\x00", []byte{0, 0xff})
	f.Fuzz(func(t *testing.T, topic, place, name1, value1, name2, value2 string, body []byte) {
		m, err := inbox.Decode(topic, place, map[string]string{name1: value1, name2: value2}, body)
		if m.Topic != topic {
			t.Fatalf("the topic is %q, and was %q", m.Topic, topic)
		}
		if err != nil && (m.ID != place || m.Source != "place") {
			t.Fatalf("it is no message (%v), and is called %q of %q", err, m.ID, m.Source)
		}
		if err == nil && m.ID == "" && place != "" {
			t.Fatalf("it is a message without an id: %+v", m)
		}
	})
}

// FuzzEventID: Go and Postgres call every event the same. Where they did not, it would take effect twice.
func FuzzEventID(f *testing.F) {
	pool := sqltest.New(f)
	v7 := newID()
	for _, id := range []string{v7, strings.ToUpper(v7), v7 + "\n", " " + v7, strings.ReplaceAll(v7, "-", ""), "{" + v7 + "}", "17", "é€ 😀", "'; --", "016f5e66-e800-7000-8000-000000000000", "03bb2cc3-d7ff-7fff-bfff-ffffffffffff"} {
		f.Add("", id)
		f.Add("/shop", id)
	}
	f.Fuzz(func(t *testing.T, source, id string) {
		for _, s := range []string{source, id} {
			if strings.Contains(s, "\x00") || !utf8.ValidString(s) {
				return // refused before it gets that far
			}
		}
		if theirs := query[string](t, pool, `SELECT pgsagaz.inbox_event_id($1, $2)::text`, source, id); theirs != inbox.EventID(source, id).String() {
			t.Fatalf("%q of %q: %s in Go, %s in Postgres", id, source, inbox.EventID(source, id), theirs)
		}
	})
}
