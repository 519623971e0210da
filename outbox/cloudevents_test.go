package outbox_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/outbox"
)

func fullEvent() outbox.Event {
	return outbox.Event{
		Sequence: 42, ID: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057"), Key: "o-1", Type: "orders.shipped",
		Payload: []byte(`{"parcel":"<7>"}`), Headers: map[string]string{"content-type": "application/json", "tenant": "a"},
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		SagaID:      "01890a5d-ac96-774b-bcce-b302099a8058", Step: "ship", Replayed: true,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
	}
}

func TestFormatBinary(t *testing.T) {
	headers, body := outbox.Format{Source: "/shop"}.Encode(fullEvent(), "ce_")
	want := map[string]string{
		"ce_specversion": "1.0", "ce_id": "01890a5d-ac96-774b-bcce-b302099a8057", "ce_source": "/shop", "ce_type": "orders.shipped",
		"ce_subject": "o-1", "ce_partitionkey": "o-1", "ce_time": "2026-01-02T03:04:05.678Z", "ce_sequence": "0000000000000000042",
		"ce_sagaid": "01890a5d-ac96-774b-bcce-b302099a8058", "ce_sagastep": "ship", "ce_replayed": "true",
		"ce_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"traceparent":    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"content-type":   "application/json", "tenant": "a",
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if headers[name] != want[name] {
			t.Errorf("%s is %q, want %q", name, headers[name], want[name])
		}
	}
	if len(headers) != len(want) || string(body) != `{"parcel":"<7>"}` {
		t.Errorf("%d headers, want %d; body %s", len(headers), len(want), body)
	}
}

func TestFormatStructured(t *testing.T) {
	headers, body := outbox.Format{Structured: true}.Encode(fullEvent(), "ce_")
	const want = `{"data":{"parcel":"<7>"},"datacontenttype":"application/json","id":"01890a5d-ac96-774b-bcce-b302099a8057","partitionkey":"o-1",` +
		`"replayed":"true","sagaid":"01890a5d-ac96-774b-bcce-b302099a8058","sagastep":"ship","sequence":"0000000000000000042","source":"pgsagaz",` +
		`"specversion":"1.0","subject":"o-1","time":"2026-01-02T03:04:05.678Z",` +
		`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","type":"orders.shipped"}`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	if headers["content-type"] != "application/cloudevents+json" || headers["tenant"] != "a" || headers["traceparent"] == "" || len(headers) != 3 {
		t.Errorf("headers %v", headers)
	}
}

func TestFormatThereAndBack(t *testing.T) {
	bare := outbox.Event{ID: uuid.Must(uuid.NewV7()), Type: "t", Payload: []byte{}, Headers: map[string]string{}}
	binary := outbox.Event{ID: uuid.Must(uuid.NewV7()), Type: "t", Key: "schlüssel ✓", Payload: []byte{0, 0xff, '\n'}, Headers: map[string]string{"empty": ""}}
	text := outbox.Event{ID: uuid.Must(uuid.NewV7()), Type: "t", Payload: []byte("plain text"), Headers: map[string]string{"content-type": "text/plain"}}
	for _, e := range []outbox.Event{fullEvent(), bare, binary, text} {
		for _, f := range []outbox.Format{{}, {Structured: true}, {Source: "https://example.com/shop"}} {
			for _, prefix := range []string{"ce_", "cloudEvents_"} {
				headers, body := f.Encode(e, prefix)
				got, err := outbox.Decode(headers, body)
				if err != nil || !reflect.DeepEqual(got, e) {
					t.Errorf("%+v, prefix %s: %v\ngot  %+v\nwant %+v", f, prefix, err, got, e)
				}
			}
		}
	}
}

// sagaz let a user's header overwrite the event's id, and consumers could then not tell duplicates.
func TestHeadersCannotForgeAttributes(t *testing.T) {
	e := fullEvent()
	e.Headers = map[string]string{"CE_ID": "forged", "ce_type": "forged", "cloudEvents_id": "forged", "ce_sequence": "9", "Traceparent": "forged"}
	for _, f := range []outbox.Format{{}, {Structured: true}} {
		for _, prefix := range []string{"ce_", "cloudEvents_"} {
			headers, body := f.Encode(e, prefix)
			got, err := outbox.Decode(headers, body)
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != e.ID || got.Type != e.Type || got.Sequence != e.Sequence || got.TraceParent != e.TraceParent {
				t.Errorf("%+v, prefix %s: %+v", f, prefix, got)
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		headers map[string]string
		says    string
	}{
		"plain":        {nil, "no CloudEvent"},
		"foreign id":   {map[string]string{"ce_specversion": "1.0", "ce_id": "7", "ce_source": "s", "ce_type": "t"}, `id "7"`},
		"bad sequence": {map[string]string{"ce_specversion": "1.0", "ce_id": uuid.NewString(), "ce_source": "s", "ce_type": "t", "ce_sequence": "x"}, `sequence "x"`},
		"malformed":    {map[string]string{"ce_specversion": "1.0"}, "no id"},
	} {
		if _, err := outbox.Decode(c.headers, nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
