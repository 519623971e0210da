package inbox

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
)

// span begins the span of handling an item, within the trace of whoever sent it. Each attempt has one.
func (w *worker) span(ctx context.Context, it *item) (context.Context, trace.Span) {
	return tracing.Start(ctx, w.tracer, tracing.Parse(it.m.TraceParent), it.m.Time, "consume "+it.m.Topic,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("consumer", w.consumer), attribute.String("topic", it.m.Topic), attribute.String("type", it.m.Type),
			attribute.String("event", it.m.ID)))
}

// traced puts ctx into the sender's trace, for what is logged of an item.
func traced(ctx context.Context, it *item) context.Context {
	return tracing.Within(ctx, tracing.Parse(it.m.TraceParent))
}
