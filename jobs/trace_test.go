package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// letter is written by one saga and answered, in another service, by a second one.
type letter struct {
	Fail bool `json:"fail"`
}

func (letter) SagaName() string { return "letter" }

type reply struct {
	Fail bool `json:"fail"`
}

func (reply) SagaName() string { return "reply" }

// post is two services and a broker between them.
type post struct {
	t      *testing.T
	pool   *pgxpool.Pool
	spans  *tracetest.InMemoryExporter
	traces *sdktrace.TracerProvider
	engine *pgengine.Engine
}

// bridge is a broker whose events come in at the other side.
type bridge struct{ *memorysub.Broker }

func (b bridge) Publish(_ context.Context, events []outbox.Event) []error {
	for _, e := range events {
		b.Broker.Publish(inbox.Message{ID: e.ID.String(), Topic: e.Topic, Key: e.Key, Type: e.Type, Payload: e.Payload, TraceParent: e.TraceParent})
	}
	return make([]error, len(events))
}

func (bridge) Close() error { return nil }

func newPost(t *testing.T) *post {
	t.Helper()
	p := &post{t: t, pool: sqltest.New(t), spans: tracetest.NewInMemoryExporter()}
	p.traces = sdktrace.NewTracerProvider(sdktrace.WithSyncer(p.spans))
	write := pgengine.TxStep[letter, int]{
		Name: "write",
		Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[letter]) (int, error) {
			return 1, outbox.Publish(ctx, tx, outbox.JSON("letters", "k", reply{}))
		},
		Undo: func(context.Context, pgx.Tx, pgengine.Call[letter], int) error { return nil },
	}
	stamp := pgengine.Activity[letter, int]{
		Name: "stamp", After: pgengine.Steps(write), Retry: pgengine.NoRetry,
		Do: func(_ context.Context, c pgengine.Call[letter]) (int, error) {
			if c.Input.Fail {
				return 0, pgengine.Terminal(errors.New("no stamp"))
			}
			return 1, nil
		},
		Undo: func(context.Context, pgengine.Call[letter], int) error { return nil },
	}
	answer := pgengine.TxStep[reply, int]{Name: "answer", Do: func(context.Context, pgx.Tx, pgengine.Call[reply]) (int, error) { return 1, nil }}
	var err error
	p.engine, err = pgengine.New(p.pool, pgengine.Config{
		Sagas: []pgengine.Definition{
			pgengine.Saga[letter]{Version: 1, Steps: pgengine.Steps[letter](write, stamp)},
			pgengine.Saga[reply]{Version: 1, Steps: pgengine.Steps[reply](answer)},
		},
		TracerProvider: p.traces, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = p.engine.Register(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs both services.
func (p *post) run() {
	p.t.Helper()
	broker := memorysub.New(memorysub.Config{})
	quiet := slog.New(slog.DiscardHandler)
	relay, err := outbox.NewRelay(p.pool, bridge{broker}, outbox.Config{TracerProvider: p.traces, Logger: quiet})
	if err != nil {
		p.t.Fatal(err)
	}
	consumer, err := inbox.NewConsumer(p.pool, broker.Source("post"), jobs.StartOn(p.engine, jobs.FromJSON[reply], nil),
		inbox.Config{Name: "post", TracerProvider: p.traces, Logger: quiet})
	if err != nil {
		p.t.Fatal(err)
	}
	worker, err := jobs.NewWorker(p.engine, jobs.Config{Lease: time.Second, Sweep: 20 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range []func(context.Context) error{relay.Run, consumer.Run, worker.Run} {
		background(p.t, f)
	}
	eventually(p.t, "all are ready", func() bool { return worker.Ready() == nil && relay.Ready() == nil && consumer.Ready() == nil })
	if err := relay.BrokerReady(); err != nil {
		p.t.Error(err)
	}
}

// start starts a letter, in the trace of ctx.
func (p *post) start(ctx context.Context, in letter) (id string) {
	p.t.Helper()
	if err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		s, err := p.engine.Start(ctx, tx, in, nil)
		id = s.ID
		return err
	}); err != nil {
		p.t.Fatal(err)
	}
	return id
}

// span waits for the one of that name.
func (p *post) span(name string) (found tracetest.SpanStub) {
	p.t.Helper()
	eventually(p.t, "span "+name, func() bool {
		for _, s := range p.spans.GetSpans() {
			if s.Name == name {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

// TestOneTrace: from a request, through a saga, its message and another service, to that one's saga: each span's parent is the
// one that caused it.
func TestOneTrace(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.run()
	ctx, request := p.traces.Tracer("test").Start(t.Context(), "request")
	id := p.start(ctx, letter{})
	request.End()
	chain := []string{"request", "start letter", "letter/write", "publish letters", "consume letters", "start reply", "reply/answer"}
	for i, name := range chain[1:] {
		span, cause := p.span(name), p.span(chain[i])
		if span.Parent.SpanID() != cause.SpanContext.SpanID() || span.SpanContext.TraceID() != request.SpanContext().TraceID() {
			t.Errorf("%s is not a child of %s in the request's trace", name, chain[i])
		}
		if span.Status.Code == codes.Error {
			t.Errorf("%s: %v", name, span.Status)
		}
	}
	attributes := fmt.Sprint(p.span("letter/write").Attributes)
	for _, want := range []string{"letter", id, "write", "do", `"attempt":1`} {
		if !strings.Contains(attributes, want) {
			t.Errorf("%q is not among the attributes %s", want, attributes)
		}
	}
}

// TestTraceOfAFailure: the step that failed says so, and what is undone for it is in the same trace.
func TestTraceOfAFailure(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.run()
	ctx, request := p.traces.Tracer("test").Start(t.Context(), "request")
	p.start(ctx, letter{Fail: true})
	request.End()
	for _, name := range []string{"letter/stamp", "undo letter/write"} {
		if s := p.span(name); s.SpanContext.TraceID() != request.SpanContext().TraceID() || s.Parent.SpanID() != p.span("start letter").SpanContext.SpanID() {
			t.Errorf("%s is not in the trace of its start", name)
		}
	}
	if s := p.span("letter/stamp"); s.Status.Code != codes.Error || strings.Contains(s.Status.Description, "stamp") {
		t.Errorf("the failed step's status is %+v", s.Status)
	}
}

// TestTraceSpansCrashes: a step that is done again after its worker's death, by another, is in the trace of the start. So long
// after the start that nobody looks there any more, it has a trace of its own, with a link.
func TestTraceSpansCrashes(t *testing.T) {
	t.Parallel()
	for name, age := range map[string]string{"soon": "1 second", "long after": "2 hours"} {
		p := newPost(t)
		ctx, request := p.traces.Tracer("test").Start(t.Context(), "request")
		p.start(ctx, letter{})
		request.End()
		for _, statement := range []string{
			`UPDATE pgsagaz.saga SET created_at = created_at - interval '` + age + `'`,
			`UPDATE pgsagaz.lane SET worker = 'dead', token = 1, step = 'write'`, // as a worker leaves it that was killed
		} {
			if _, err := p.pool.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		p.run()
		step, start := p.span("letter/write"), p.span("start letter")
		same := step.SpanContext.TraceID() == request.SpanContext().TraceID()
		linked := len(step.Links) == 1 && step.Links[0].SpanContext.SpanID() == start.SpanContext.SpanID()
		if name == "soon" && (!same || len(step.Links) > 0) || name == "long after" && (same || !linked || step.Parent.IsValid()) {
			t.Errorf("%s: same trace %v, links %v, parent %v", name, same, step.Links, step.Parent)
		}
	}
}

// TestTraceIsHandedOn: where nobody makes spans, the starter's context still reaches the steps and the messages.
func TestTraceIsHandedOn(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	pool := sqltest.New(t)
	seen := make(chan string, 1)
	send := pgengine.TxStep[letter, int]{Name: "send", Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[letter]) (int, error) {
		return 1, outbox.Publish(ctx, tx, outbox.JSON("letters", "k", reply{}))
	}}
	e, err := pgengine.New(pool, pgengine.Config{
		Sagas:  []pgengine.Definition{pgengine.Saga[letter]{Version: 1, Steps: pgengine.Steps[letter](send)}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := jobs.NewWorker(e, jobs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	background(t, w.Run)
	relay, err := outbox.NewRelay(pool, publisherFunc(func(e outbox.Event) { seen <- e.TraceParent }), outbox.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	background(t, relay.Run)
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := e.Start(t.Context(), tx, letter{}, &pgengine.StartOptions{TraceParent: parent})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != parent {
		t.Errorf("the message carries %q, want %q", got, parent)
	}
}

// publisherFunc is a broker that takes everything.
type publisherFunc func(outbox.Event)

func (f publisherFunc) Publish(_ context.Context, events []outbox.Event) []error {
	for _, e := range events {
		f(e)
	}
	return make([]error, len(events))
}

func (publisherFunc) Close() error { return nil }
