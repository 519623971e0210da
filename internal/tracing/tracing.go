// Package tracing carries W3C trace contexts from where something was begun to where it goes on: another goroutine, another
// process after a crash, another service.
package tracing

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Name is the instrumentation's.
const Name = "github.com/pgsagaz/pgsagaz"

const header = "traceparent"

// Tracer of a provider; nil: one that makes no spans, and hands on the context that there is.
func Tracer(provider trace.TracerProvider) trace.Tracer {
	if provider == nil {
		provider = noop.NewTracerProvider()
	}
	return provider.Tracer(Name)
}

// Parse reads a traceparent. What can't be read is no context, and that is no error: it came from outside.
func Parse(traceparent string) trace.SpanContext {
	if traceparent == "" {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{header: traceparent})
	return trace.SpanContextFromContext(ctx)
}

// Of is the traceparent of the span that ctx is in; "": it is in none.
func Of(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[header]
}

// Within puts ctx into a span that somebody else has begun. One that is not valid leaves ctx as it is.
func Within(ctx context.Context, parent trace.SpanContext) context.Context {
	if !parent.IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, parent)
}

// longGone is from when on what goes on with something begins a trace of its own, with a link to where that was begun: few
// tools show a trace that goes on for days, and fewer keep its beginning.
const longGone = time.Hour

// Start begins a span of what somebody else began, at a time (zero: not known): within his trace or, if that was long ago, with a
// link to it.
func Start(ctx context.Context, tracer trace.Tracer, parent trace.SpanContext, begun time.Time, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if parent.IsValid() {
		if begun.IsZero() || time.Since(begun) <= longGone {
			ctx = Within(ctx, parent)
		} else {
			options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: parent}))
		}
	}
	return tracer.Start(ctx, name, options...)
}

// Fail marks the span that ctx is in as failed.
func Fail(ctx context.Context, kind string) {
	trace.SpanFromContext(ctx).SetStatus(codes.Error, kind)
}

// Logger adds trace_id to the records of contexts that are in a span.
func Logger(log *slog.Logger) *slog.Logger {
	if _, ok := log.Handler().(handler); ok {
		return log
	}
	return slog.New(handler{log.Handler()})
}

type handler struct{ slog.Handler }

// Handle adds trace_id.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps adding it.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps adding it.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
