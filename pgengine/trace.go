package pgengine

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
)

// origin is where a saga comes from.
type origin struct {
	age         float64   // seconds since its start, when it was read
	born        time.Time // by this process's clock
	traceparent string    // of whoever started it; "": not known
	parent      trace.SpanContext
}

// complete makes the rest of what was read.
func (o origin) complete() origin {
	o.born = time.Now().Add(-time.Duration(o.age * float64(time.Second)))
	o.parent = tracing.Parse(o.traceparent)
	return o
}

// within puts ctx where the saga was started, so that what is logged and called has its trace.
func (l *lane) within(ctx context.Context) context.Context { return tracing.Within(ctx, l.parent) }

// stepSpan begins the span of an attempt at the lane's step. The saga's row holds the parent, so that an attempt after a crash,
// in another process, is in the same trace.
func (e *Engine) stepSpan(ctx context.Context, l *lane) (context.Context, trace.Span) {
	n, parent, begun := l.node(), trace.SpanContextFromContext(ctx), time.Time{}
	if parent.Equal(l.parent) {
		begun = l.born // else it is within the span of a step that it shares a transaction with
	}
	name := l.g.name + "/" + n.name
	if l.at.direction == Undo {
		name = "undo " + name
	}
	return tracing.Start(ctx, e.tracer, parent, begun, name, trace.WithAttributes(
		attribute.String("saga", l.g.name), attribute.String("saga_id", l.sagaID), attribute.String("step", n.name),
		attribute.String("direction", string(l.at.direction)), attribute.Int("attempt", l.attempt+1),
	))
}

// startSpan begins the span of a start. What the starter says of itself counts for more than the span that ctx is in.
func (e *Engine) startSpan(ctx context.Context, name, traceparent string) (context.Context, trace.Span) {
	ctx = tracing.Within(ctx, tracing.Parse(traceparent))
	return e.tracer.Start(ctx, "start "+name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.String("saga", name)))
}

func endStartMany(span trace.Span, all []Started, err error) {
	if err != nil {
		span.SetStatus(codes.Error, "the sagas were not started")
	}
	span.SetAttributes(attribute.Int("sagas", len(all)))
	span.End()
}

func endStart(span trace.Span, s Started, err error) {
	switch {
	case err != nil:
		span.SetStatus(codes.Error, "the saga was not started")
	default:
		span.SetAttributes(attribute.String("saga_id", s.ID), attribute.Bool("existed", s.Existed))
	}
	span.End()
}
