package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type parcel struct {
	To string `json:"to"`
}

func (parcel) SagaName() string { return "parcel" }

// sendParcel packs, and then sends with a message.
func sendParcel() pgengine.Definition {
	type call = pgengine.Call[parcel]
	pack := pgengine.TxStep[parcel, string]{
		Name: "pack", Do: func(context.Context, pgx.Tx, call) (string, error) { return "box", nil },
		Undo: func(context.Context, pgx.Tx, call, string) error { return nil },
	}
	send := pgengine.TxStep[parcel, string]{
		Name: "send", After: pgengine.Steps(pack),
		Do: func(ctx context.Context, tx pgx.Tx, c call) (string, error) {
			return "sent", outbox.Publish(ctx, tx, outbox.JSON("parcels", c.Input.To, c.Input))
		},
		Undo: func(context.Context, pgx.Tx, call, string) error { return nil },
	}
	return pgengine.Saga[parcel]{Version: 1, Output: send, Steps: pgengine.Steps(pack, send)}
}

// dock is a theatre that sends parcels through a broker in memory.
func dock(t *testing.T) *theatre {
	h := newTheatre(t, sqltest.New(t).Config().ConnString())
	h.env["PGSAGAZ_BROKER"] = "memory"
	h.sagas = []pgengine.Definition{sendParcel()}
	return h
}

// send starts a saga, and waits for its end.
func (h *theatre) send() (id string) {
	h.t.Helper()
	var s started
	h.eventually(func() bool { // a worker registers it
		r := h.run("saga", "start", "parcel", "--input", `{"to": "Rome"}`, "--wait", "--json")
		return r.code == exitOK && json.Unmarshal([]byte(r.stdout), &s) == nil
	})
	return s.ID
}

// fakeCollector takes what is posted to it.
type fakeCollector struct {
	mu      sync.Mutex
	service string
	spans   []*spans.Span
	wrong   []string
}

func (c *fakeCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var request collector.ExportTraceServiceRequest
	raw, err := func() ([]byte, error) {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(unzipped)
	}()
	if err = errors.Join(err, proto.Unmarshal(raw, &request)); err != nil {
		c.wrong = append(c.wrong, err.Error())
	}
	if got := r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization") + " " + r.Header.Get("X-Shop"); got != "POST /v1/traces Bearer s3cret 7" {
		c.wrong = append(c.wrong, got)
	}
	for _, resource := range request.ResourceSpans {
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				c.service = a.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

// TestTracesAreExported: one trace goes over the start, by one process, and the steps and the message, by another.
func TestTracesAreExported(t *testing.T) {
	t.Parallel()
	var c fakeCollector
	server := httptest.NewServer(&c)
	defer server.Close()
	h := dock(t)
	h.env["PGSAGAZ_OTLP_ENDPOINT"] = server.URL
	h.env["PGSAGAZ_OTLP_HEADERS_FILE"] = write(t, "headers", "Authorization=Bearer%20s3cret\nX-Shop=7\n")
	h.env["OTEL_SERVICE_NAME"] = "dock"
	worker := h.serve("--log-level", "info")
	id := h.send()
	h.eventually(func() bool {
		var s struct{ Pending int64 }
		h.ok(&s, "outbox", "status")
		return s.Pending == 0
	})
	worker.stop()
	if r := <-worker.ended; r.code != exitOK || strings.Contains(r.stderr, "span") || strings.Contains(r.stderr, "s3cret") {
		t.Errorf("%+v", r)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) > 0 || c.service != "dock" {
		t.Errorf("%q, by %q", c.wrong, c.service)
	}
	one := func(name string) *spans.Span {
		t.Helper()
		var of []*spans.Span // this saga's: a start before the worker had registered it is a span of its own
		for _, s := range c.spans {
			for _, a := range s.Attributes {
				if s.Name == name && a.Key == "saga_id" && a.Value.GetStringValue() == id {
					of = append(of, s)
				}
			}
		}
		if len(of) != 1 {
			t.Fatalf("%d spans %q in %v", len(of), name, c.spans)
		}
		return of[0]
	}
	start, send := one("start parcel"), one("parcel/send")
	for name, parent := range map[string]*spans.Span{"parcel/pack": start, "parcel/send": start, "publish parcels": send} {
		if s := one(name); !bytes.Equal(s.TraceId, start.TraceId) || !bytes.Equal(s.ParentSpanId, parent.SpanId) {
			t.Errorf("%s is not below %s: %v", name, parent.Name, s)
		}
	}
}

// TestTracesAreSampled: a trace of which no part is exported has none in the collector, whichever process made the spans.
func TestTracesAreSampled(t *testing.T) {
	t.Parallel()
	var c fakeCollector
	server := httptest.NewServer(&c)
	defer server.Close()
	h := dock(t)
	h.env["PGSAGAZ_OTLP_ENDPOINT"] = server.URL
	h.env["PGSAGAZ_OTLP_SAMPLE"] = "0"
	worker := h.serve("--otlp-sample", "1") // it would export its own: but it was decided where they began
	h.send()
	worker.stop()
	if r := <-worker.ended; r.code != exitOK {
		t.Errorf("%+v", r)
	}
	for _, s := range c.spans {
		t.Errorf("%s was exported", s.Name)
	}
}

// TestACollectorThatHangs holds up nothing but the end of the process, and that for a while only.
func TestACollectorThatHangs(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}, 100), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else a client that goes is not noticed
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer server.Close()
	defer close(release)
	h := dock(t)
	worker := h.serve("--log-level", "warn", "--otlp-endpoint", server.URL)
	h.send()
	worker.stop()
	r := <-worker.ended
	if r.code != exitOK || !strings.Contains(r.stdout, `"stopped"`) {
		t.Errorf("%+v", r)
	}
	contains(t, r.stderr, "the last spans were not exported")
	<-asked // it was
}

// TestACollectorThatIsAway is told of once, and so is its return.
func TestACollectorThatIsAway(t *testing.T) {
	t.Parallel()
	h := dock(t)
	worker := h.serve("--log-level", "warn", "--otlp-endpoint", "http://127.0.0.1:1")
	h.send()
	worker.stop()
	if r := <-worker.ended; r.code != exitOK || strings.Count(r.stderr, "spans are not exported") != 1 {
		t.Errorf("%+v", r)
	}

	var log bytes.Buffer
	collector := &moody{}
	e := &outspokenExporter{SpanExporter: collector, address: "here", log: slog.New(slog.NewTextHandler(&log, nil)), life: t.Context()}
	batch := tracetest.SpanStubs{{Name: "a"}, {Name: "b"}}.Snapshots()
	for _, collector.err = range []error{nil, errors.New("away"), errors.New("away"), nil, nil} {
		if err := e.ExportSpans(t.Context(), batch); err != nil {
			t.Error(err)
		}
	}
	if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "error=away") || !strings.Contains(lines[1], "lost=4") {
		t.Errorf("%q", lines)
	}
}

// moody exports as it likes.
type moody struct {
	sdktrace.SpanExporter
	err error
}

func (m *moody) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return m.err }

// TestTraceSettings: what is wrong is named, and what is secret is not.
func TestTraceSettings(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"http://c:4318": "http://c:4318/v1/traces", "https://c/": "https://c/v1/traces", "https://c/otlp/v1/traces": "https://c/otlp/v1/traces",
	} {
		if got, err := otlpURL(given); got != want || err != nil {
			t.Errorf("%s: %s, %v", given, got, err)
		}
	}
	got, err := parseHeaders(" Authorization=Basic%20dTpw==,\nx-a = b%2C%25 \n")
	if err != nil || len(got) != 2 || got["Authorization"] != "Basic dTpw==" || got["x-a"] != "b,%" {
		t.Errorf("%q, %v", got, err)
	}
	for _, c := range []struct{ variable, value, says string }{
		{"PGSAGAZ_OTLP_ENDPOINT", "s3cret:4318", "not of the form http://host:port"},
		{"PGSAGAZ_OTLP_ENDPOINT", "grpc://s3cret:4317", "not of the form http://host:port"},
		{"PGSAGAZ_OTLP_ENDPOINT", "http://u:s3cret@c", "--otlp-headers"},
		{"PGSAGAZ_OTLP_ENDPOINT", "http://c/?key=s3cret", "no query"},
		{"PGSAGAZ_OTLP_HEADERS", "a=1,s3cret", "header 2 is not of the form name=value"},
		{"PGSAGAZ_OTLP_HEADERS", "a=s3cret%", "the value of a"},
		{"PGSAGAZ_OTLP_HEADERS", "a=s3cret%0Ab:c", "the value of a"},
		{"PGSAGAZ_OTLP_HEADERS", "a=1,a=s3cret", "a is there twice"},
		{"PGSAGAZ_OTLP_SAMPLE", "1.5", "1.5 is not between 0 and 1"},
		{"PGSAGAZ_OTLP_SAMPLE", "NaN", "is not between 0 and 1"},
	} {
		for _, command := range []string{"worker", "saga start parcel --input {}", "config"} {
			h := &theatre{t: t, env: map[string]string{"PGSAGAZ_DATABASE_URL": "postgres://127.0.0.1:1/x", c.variable: c.value}}
			r := h.run(strings.Fields(command)...)
			if r.code != exitUsage || !strings.Contains(r.stderr, c.says) || strings.Contains(r.stderr, "s3cret") {
				t.Errorf("%s with %s=%s: %+v", command, c.variable, c.value, r)
			}
		}
	}
	h := &theatre{t: t, env: map[string]string{"PGSAGAZ_OTLP_HEADERS": "b=s3cret,a=s3cret"}}
	var shown inForce
	h.ok(&shown, "config")
	if s := shown.get(t, "--otlp-headers"); s.Value != "a=xxxxx,b=xxxxx" || !slices.Contains(s.Variables, "PGSAGAZ_OTLP_HEADERS") {
		t.Errorf("%+v", s)
	}
}
