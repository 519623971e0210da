package cloudevents_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/cloudevents"
)

// What other programs write, by the bindings of CloudEvents.
func TestDecode(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		headers map[string]string
		body    string
		mode    cloudevents.Mode
		want    cloudevents.Event
	}{
		"Kafka's binary mode": {
			headers: map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_source": "/s", "ce_type": "t", "ce_time": "2026-01-02T04:04:05+01:00", "ce_tenant": "a", "Content-Type": "text/plain", "Other": "o"},
			body:    "x", mode: cloudevents.Binary,
			want: cloudevents.Event{ID: "7", Source: "/s", Type: "t", Time: when, DataContentType: "text/plain", Extensions: map[string]string{"tenant": "a"},
				Headers: map[string]string{"content-type": "text/plain", "other": "o"}, Data: []byte("x")},
		},
		"AMQP's binary mode, its first spelling": {
			headers: map[string]string{"cloudEvents:specversion": "1.0", "cloudEvents:id": "7", "cloudEvents:source": "/s", "cloudEvents:type": "t", "cloudEvents:subject": "u"},
			mode:    cloudevents.Binary,
			want:    cloudevents.Event{ID: "7", Source: "/s", Type: "t", Subject: "u", Extensions: map[string]string{}, Headers: map[string]string{}, Data: []byte{}},
		},
		"HTTP's binary mode": {
			headers: map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "7", "Ce-Source": "/s", "Ce-Type": "t"},
			mode:    cloudevents.Binary,
			want:    cloudevents.Event{ID: "7", Source: "/s", Type: "t", Extensions: map[string]string{}, Headers: map[string]string{}, Data: []byte{}},
		},
		"structured": {
			headers: map[string]string{"content-type": "application/cloudevents+json; charset=utf-8", "other": "o", "ce_id": "not this"},
			body:    `{"specversion":"1.0","id":"7","source":"/s","type":"t","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","count":3,"flag":true,"none":null,"data":{"a": 1}}`,
			mode:    cloudevents.Structured,
			want: cloudevents.Event{ID: "7", Source: "/s", Type: "t", Time: when, DataContentType: "application/json", Extensions: map[string]string{"count": "3", "flag": "true"},
				Headers: map[string]string{"content-type": "application/json", "other": "o"}, Data: []byte(`{"a": 1}`)},
		},
		"structured, with text": {
			headers: map[string]string{"content-type": "application/cloudevents+json"},
			body:    `{"specversion":"1.0","id":"7","source":"/s","type":"t","datacontenttype":"text/xml","data":"<a/>"}`,
			mode:    cloudevents.Structured,
			want: cloudevents.Event{ID: "7", Source: "/s", Type: "t", DataContentType: "text/xml", Extensions: map[string]string{},
				Headers: map[string]string{"content-type": "text/xml"}, Data: []byte("<a/>")},
		},
		"structured, with a JSON string": {
			headers: map[string]string{"content-type": "application/cloudevents+json"},
			body:    `{"specversion":"1.0","id":"7","source":"/s","type":"t","data":"a"}`,
			mode:    cloudevents.Structured,
			want:    cloudevents.Event{ID: "7", Source: "/s", Type: "t", Extensions: map[string]string{}, Headers: map[string]string{}, Data: []byte(`"a"`)},
		},
		"structured, in base64": {
			headers: map[string]string{"content-type": "application/cloudevents+json"},
			body:    `{"specversion":"1.0","id":"7","source":"/s","type":"t","data_base64":"AP8="}`,
			mode:    cloudevents.Structured,
			want:    cloudevents.Event{ID: "7", Source: "/s", Type: "t", Extensions: map[string]string{}, Headers: map[string]string{}, Data: []byte{0, 0xff}},
		},
		"sagaz": {
			headers: map[string]string{"event_id": "e", "content_type": "application/json"},
			body: `{"event_id":"8a7c","saga_id":"s-1","aggregate_type":"order","aggregate_id":"o-1","event_type":"OrderCreated",` +
				`"payload":{"total": 3},"timestamp":"2026-01-02T03:04:05"}`,
			mode: cloudevents.Sagaz,
			want: cloudevents.Event{ID: "8a7c", Type: "OrderCreated", Subject: "o-1", Time: when, DataContentType: "application/json",
				Extensions: map[string]string{"partitionkey": "o-1", "sagaid": "s-1", "aggregatetype": "order"},
				Headers:    map[string]string{"event_id": "e", "content_type": "application/json"}, Data: []byte(`{"total": 3}`)},
		},
		"JSON that is nearly sagaz's": {
			body: `{"event_id":"8a7c","payload":{}}`, mode: cloudevents.Plain,
			want: cloudevents.Event{Headers: map[string]string{}, Data: []byte(`{"event_id":"8a7c","payload":{}}`)},
		},
		"plain": {
			headers: map[string]string{"Content-Type": "text/plain"}, body: "x", mode: cloudevents.Plain,
			want: cloudevents.Event{DataContentType: "text/plain", Headers: map[string]string{"content-type": "text/plain"}, Data: []byte("x")},
		},
	} {
		got, mode, err := cloudevents.Decode(c.headers, []byte(c.body))
		got.Time = got.Time.UTC()
		if err != nil || mode != c.mode || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: mode %s, %v\ngot  %+v\nwant %+v", name, mode, err, got, c.want)
		}
	}
}

// A message that claims to be an event and is none keeps what it came with, for the dead letter.
func TestDecodeMalformed(t *testing.T) {
	structured := map[string]string{"content-type": "application/cloudevents+json"}
	for says, c := range map[string]struct {
		headers map[string]string
		body    string
	}{
		"no id":                     {map[string]string{"ce_specversion": "1.0", "ce_source": "/s", "ce_type": "t"}, "x"},
		"no source":                 {map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_type": "t"}, "x"},
		"no type":                   {map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_source": "/s"}, "x"},
		`specversion "0.3"`:         {map[string]string{"ce_specversion": "0.3", "ce_id": "7", "ce_source": "/s", "ce_type": "t"}, "x"},
		`time "yesterday"`:          {map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_source": "/s", "ce_type": "t", "ce_time": "yesterday"}, "x"},
		"malformed":                 {structured, `{"specversion"`},
		`attribute "Trace-Id"`:      {structured, `{"specversion":"1.0","id":"7","source":"/s","type":"t","Trace-Id":"1"}`},
		"both data and data_base64": {structured, `{"specversion":"1.0","id":"7","source":"/s","type":"t","data":1,"data_base64":"AP8="}`},
		"data_base64: ":             {structured, `{"specversion":"1.0","id":"7","source":"/s","type":"t","data_base64":"?"}`},
		"cannot be read":            {map[string]string{"content-type": "application/cloudevents-batch+json"}, "[]"},
	} {
		got, _, err := cloudevents.Decode(c.headers, []byte(c.body))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want one that says %q", err, says)
		}
		if string(got.Data) != c.body {
			t.Errorf("%s: the payload %q is left of %q", says, got.Data, c.body)
		}
	}
}

// Whatever comes, decoding ends, and what decodes without an error encodes and decodes to the same event.
func FuzzDecode(f *testing.F) {
	f.Add("ce_specversion", "1.0", "ce_id", "7", []byte("x"))
	f.Add("content-type", "application/cloudevents+json", "other", "o", []byte(`{"specversion":"1.0","id":"7","source":"/s","type":"t","data":{"a":1}}`))
	f.Add("content-type", "application/cloudevents+json", "ce_a", "o", []byte(`{"specversion":"1.0","id":"7","source":"/s","type":"t","datacontenttype":"text/plain","data":"\u0000"}`))
	f.Add("", "", "", "", []byte(`{"event_id":"8a7c","saga_id":"s","aggregate_id":"o","event_type":"T","payload":null,"timestamp":"2026-01-02T03:04:05.5"}`))
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, body []byte) {
		headers := map[string]string{name1: value1, name2: value2}
		if strings.EqualFold(name1, "ce_specversion") {
			headers["ce_source"], headers["ce_type"] = "/s", "t"
		}
		first, mode, err := cloudevents.Decode(headers, body)
		if err != nil || mode == cloudevents.Plain || mode == cloudevents.Sagaz {
			return
		}
		if first.ID == "" || first.Source == "" || first.Type == "" {
			t.Fatalf("decoded without an error and without what is required: %+v", first)
		}
		h, b := first.EncodeBinary(cloudevents.KafkaPrefix)
		second, mode, err := cloudevents.Decode(h, b)
		if err != nil || mode != cloudevents.Binary {
			t.Fatalf("%+v was encoded and does not decode: %s, %v", first, mode, err)
		}
		if !first.Time.Equal(second.Time) {
			t.Fatalf("time %v became %v", first.Time, second.Time)
		}
		first.Time, second.Time = time.Time{}, time.Time{}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("there and back:\n%+v\n%+v", first, second)
		}
		h, b = first.EncodeStructured()
		if _, _, err := cloudevents.Decode(h, b); err != nil {
			t.Fatalf("%+v does not decode as structured: %v", first, err)
		}
	})
}
