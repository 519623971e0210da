package outbox

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
)

// tracedBy gives the message the trace context of whoever publishes it, unless it has one.
func (m *Message) tracedBy(ctx context.Context) {
	if m.TraceParent == "" {
		m.TraceParent = tracing.Of(ctx)
	}
}

// spans begins a span for each event whose writer was traced, and has the event carry it on: who consumes it is then seen to
// follow its publishing. Each attempt has a span of its own. nil: nobody makes spans.
func (r *Relay) spans(events []Event) []trace.Span {
	if r.tracer == nil {
		return nil
	}
	spans := make([]trace.Span, len(events))
	for i := range events {
		e := &events[i]
		parent := tracing.Parse(e.TraceParent)
		if !parent.IsValid() {
			continue
		}
		var ctx context.Context
		ctx, spans[i] = tracing.Start(context.Background(), r.tracer, parent, e.CreatedAt, "publish "+e.Topic,
			trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
				attribute.String("topic", e.Topic), attribute.String("type", e.Type), attribute.String("event", e.ID.String()),
				attribute.String("saga_id", e.SagaID), attribute.String("step", e.Step)))
		e.TraceParent = tracing.Of(ctx)
	}
	return spans
}

// endSpans ends them with what the publisher said.
func endSpans(spans []trace.Span, errs []error) {
	for i, span := range spans {
		if span == nil {
			continue
		}
		if i >= len(errs) || errs[i] != nil {
			span.SetStatus(codes.Error, "not acknowledged")
		}
		span.End()
	}
}
