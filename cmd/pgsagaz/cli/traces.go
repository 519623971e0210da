package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// flushBound is how long the last spans may hold up the end of a process. All else has ended by then.
const flushBound = 3 * time.Second

// openTraces makes what spans go to: the program's own provider, or one by the settings, or none. flush exports what is left, and
// ends what was begun here. A collector that is away costs spans and lines in the log: spans wait in a queue of limited length, and
// nothing waits for them.
func (a *app) openTraces(ctx context.Context, log *slog.Logger) (flush func(), err error) {
	a.traces = a.TracerProvider
	if a.traces != nil || a.cfg.otlpEndpoint == "" {
		return func() {}, nil
	}
	endpoint, err := otlpURL(a.cfg.otlpEndpoint)
	if err != nil {
		return nil, usagef("--otlp-endpoint: %w", err)
	}
	headers, err := parseHeaders(a.cfg.otlpHeaders)
	if err != nil {
		return nil, usagef("--otlp-headers: %w", err)
	}
	client, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithHeaders(headers),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression), otlptracehttp.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("the exporter of traces: %w", err)
	}
	source, err := a.traceSource(ctx)
	if err != nil {
		return nil, fmt.Errorf("the exporter of traces: %w", err)
	}
	exporting, end := context.WithCancel(context.WithoutCancel(ctx))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&outspokenExporter{SpanExporter: client, address: endpoint, log: log, life: exporting}),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(a.cfg.otlpSample))),
		sdktrace.WithResource(source),
	)
	a.traces = provider
	return func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushBound)
		defer cancel()
		if err := provider.Shutdown(bounded); err != nil {
			log.WarnContext(ctx, "the last spans were not exported", "address", endpoint, "error", err)
		}
		end()
	}, nil
}

// traceSource says whose spans they are.
func (a *app) traceSource(ctx context.Context) (*resource.Resource, error) {
	attributes := []attribute.KeyValue{attribute.String("service.name", a.cfg.otlpService)}
	if version, _ := built(); version != "" {
		attributes = append(attributes, attribute.String("service.version", version))
	}
	if a.cfg.workerID != "" {
		attributes = append(attributes, attribute.String("service.instance.id", a.cfg.workerID))
	}
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(attributes...))
}

// outspokenExporter logs when exporting begins to fail, and when it works again. The SDK would tell a handler that the whole process
// has in common, of each batch.
type outspokenExporter struct {
	sdktrace.SpanExporter
	address string
	log     *slog.Logger
	life    context.Context // what is being exported ends with it

	mu   sync.Mutex
	lost int // spans since it began to fail
}

// ExportSpans never fails: it has said so itself.
func (e *outspokenExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.life, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err != nil:
		if e.lost == 0 {
			e.log.WarnContext(ctx, "spans are not exported, and are lost", "address", e.address, "error", err)
		}
		e.lost += len(spans)
	case e.lost > 0:
		e.log.InfoContext(ctx, "spans are exported again", "address", e.address, "lost", e.lost)
		e.lost = 0
	}
	return nil
}

// otlpURL is where spans are posted to. An address without a path is a collector's, which takes them at the usual one.
func otlpURL(address string) (string, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("not of the form http://host:port or https://host:port/path") // without it: it may hold a password
	case u.User != nil:
		return "", errors.New("give user and password as --otlp-headers, as in Authorization=Basic%20TOKEN")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the address of a collector has no query and no fragment")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	return u.String(), nil
}

func otlpProblem(address string) error {
	if address == "" {
		return nil
	}
	return second(otlpURL(address))
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// parseHeaders reads name=value, by commas or lines, with %XX for what has a meaning here. Its errors hold no values.
func parseHeaders(s string) (map[string]string, error) {
	headers := map[string]string{}
	n := 0
	for item := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == '\n' }) {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		n++
		name, escaped, ok := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		if !ok || !headerName.MatchString(name) {
			return nil, fmt.Errorf("header %d is not of the form name=value", n)
		}
		value, err := url.PathUnescape(strings.TrimSpace(escaped))
		if err != nil || strings.ContainsFunc(value, unicode.IsControl) {
			return nil, fmt.Errorf("the value of %s is none that a header can have; %% is written as %%25", name)
		}
		if _, twice := headers[name]; twice {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		headers[name] = value
	}
	return headers, nil
}

// showHeaders names headers, and shows no values.
func showHeaders(s string) string {
	headers, err := parseHeaders(s)
	if err != nil {
		return masked
	}
	names := slices.Sorted(maps.Keys(headers))
	for i := range names {
		names[i] += "=" + masked
	}
	return strings.Join(names, ",")
}
