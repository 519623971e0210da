package tracing_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestRoundTrip: what came in goes out, also where nobody makes spans; what can't be read is left out.
func TestRoundTrip(t *testing.T) {
	ctx := tracing.Within(t.Context(), tracing.Parse(parent))
	if got := tracing.Of(ctx); got != parent {
		t.Errorf("%q went in, %q came out", parent, got)
	}
	ctx, span := tracing.Tracer(nil).Start(ctx, "nobody looks")
	tracing.Fail(ctx, "error")
	span.End()
	if got := tracing.Of(ctx); got != parent {
		t.Errorf("without a provider %q became %q", parent, got)
	}
	for _, bad := range []string{"", "00-0-0-0", "'; DROP TABLE saga; --", strings.Repeat("x", 1000)} {
		if got := tracing.Of(tracing.Within(context.Background(), tracing.Parse(bad))); got != "" {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// TestLogger: records of a context in a span have its trace_id, through With and WithGroup, and once.
func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log := tracing.Logger(tracing.Logger(slog.New(slog.NewTextHandler(&b, nil)))).With("saga", "order")
	log.InfoContext(tracing.Within(t.Context(), tracing.Parse(parent)), "in a span")
	log.InfoContext(t.Context(), "in none")
	lines := strings.Split(b.String(), "\n")
	if strings.Count(lines[0], "trace_id=0af7651916cd43dd8448eb211c80319c") != 1 || strings.Contains(lines[1], "trace_id") {
		t.Error(b.String())
	}
	b.Reset()
	log.WithGroup("g").InfoContext(tracing.Within(t.Context(), tracing.Parse(parent)), "in a group")
	if !strings.Contains(b.String(), "g.trace_id=0af7") {
		t.Error(b.String())
	}
}
