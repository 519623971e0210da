package redispub

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/cloudevents"
	"github.com/pgsagaz/pgsagaz/outbox"
)

//go:embed publish.lua
var publishSource string

var publish = redis.NewScript(publishSource)

// maxFields is how many fields an entry may have: Lua passes less than 8000 arguments.
const maxFields = 3000

// Publisher is an [outbox.Publisher]. Its methods may be called at once.
type Publisher struct {
	cfg    Config
	client redis.UniversalClient
}

var _ outbox.Publisher = (*Publisher)(nil)

// New makes a publisher. It connects when it first publishes.
func New(cfg Config) (*Publisher, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Publisher{cfg: cfg, client: redis.NewUniversalClient(&cfg.Options)}, nil
}

// Close closes all connections.
func (p *Publisher) Close() error {
	if err := p.client.Close(); err != nil && !errors.Is(err, net.ErrClosed) { // a connection that is broken already is closed well enough
		return fmt.Errorf("redispub: %w", err)
	}
	return nil
}

// Publish sends events, to several streams at once.
func (p *Publisher) Publish(ctx context.Context, events []outbox.Event) []error {
	return outbox.Rounds{
		Target: func(e outbox.Event) string { return p.cfg.Prefix + e.Topic },
		Send:   p.send,
	}.Publish(ctx, events)
}

// send sends the events of one stream, script call after script call.
func (p *Publisher) send(ctx context.Context, stream string, lot []outbox.Event) []error {
	errs := make([]error, len(lot))
	held := map[string]bool{}
	var broken error // no more can be sent
	for next := 0; next < len(lot); {
		var args []any
		var batch []int
		size := 0
		for ; next < len(lot) && len(batch) < p.cfg.BatchEvents; next++ {
			e := lot[next]
			if held[e.Key] {
				errs[next] = outbox.ErrHeld
				continue
			}
			if broken != nil {
				errs[next] = broken
				continue
			}
			fields, bytes, err := p.fields(e)
			if err != nil {
				errs[next] = &outbox.RejectedError{Err: err}
				if e.Key != "" {
					held[e.Key] = true
				}
				continue
			}
			if size += bytes; size > p.cfg.BatchBytes && len(batch) > 0 {
				break
			}
			args = append(append(args, e.Key, len(fields)), fields...)
			batch = append(batch, next)
		}
		if len(batch) == 0 {
			continue
		}
		answers, err := p.add(ctx, stream, args, len(batch))
		if err != nil {
			broken = fmt.Errorf("not sent, since what goes before it failed: %w", err)
		}
		for j, i := range batch {
			if err != nil {
				errs[i] = err
			} else if errs[i] = p.answer(stream, answers[j]); errs[i] != nil && lot[i].Key != "" {
				held[lot[i].Key] = true
			}
		}
	}
	return errs
}

// fields are those of an event's entry, each followed by its value.
func (p *Publisher) fields(e outbox.Event) (fields []any, size int, err error) {
	headers, body := p.cfg.Format.Encode(e, cloudevents.KafkaPrefix)
	if len(body) > p.cfg.MaxBytes {
		return nil, 0, fmt.Errorf("redispub: %d bytes are too large, the limit is %d", len(body), p.cfg.MaxBytes)
	}
	if _, ok := headers[cloudevents.DataField]; ok {
		return nil, 0, fmt.Errorf("redispub: a header cannot be named %s: the field of that name is the payload", cloudevents.DataField)
	}
	if len(headers) > maxFields {
		return nil, 0, fmt.Errorf("redispub: %d headers are too many, the limit is %d", len(headers), maxFields)
	}
	size = len(body)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fields = append(fields, name, headers[name])
		size += len(name) + len(headers[name])
	}
	return append(fields, cloudevents.DataField, body), size, nil
}

// add runs the script. An error leaves open whether it ran.
func (p *Publisher) add(ctx context.Context, stream string, events []any, n int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	args := append([]any{strconv.FormatInt(p.cfg.MaxLen, 10)}, events...)
	answers, err := p.run(ctx, stream, args)
	if redis.HasErrorPrefix(err, "NOSCRIPT") { // a new server, or one that was restarted: it has done nothing yet
		if err = publish.Load(ctx, p.client).Err(); err == nil {
			answers, err = p.run(ctx, stream, args)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("redispub: stream %s: %w", stream, err)
	}
	if len(answers) != n {
		return nil, fmt.Errorf("redispub: stream %s: %d answers for %d events", stream, len(answers), n)
	}
	return answers, nil
}

// run runs the script and waits for replicas, on one connection: WAIT is about the connection's own writes.
func (p *Publisher) run(ctx context.Context, stream string, args []any) ([]string, error) {
	if p.cfg.Replicas == 0 {
		return publish.EvalSha(ctx, p.client, []string{stream}, args...).StringSlice()
	}
	pipe := p.client.Pipeline()
	added := publish.EvalSha(ctx, pipe, []string{stream}, args...)
	have := pipe.Do(ctx, "WAIT", p.cfg.Replicas, p.cfg.Timeout.Milliseconds()/2)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	if n, err := have.Int(); err != nil {
		return nil, err
	} else if n < p.cfg.Replicas {
		return nil, fmt.Errorf("only %d of %d replicas have it", n, p.cfg.Replicas)
	}
	return added.StringSlice()
}

// answer is the error that the script's answer for an event means.
func (p *Publisher) answer(stream, text string) error {
	switch {
	case text == "":
		return nil
	case text == "HELD":
		return outbox.ErrHeld
	}
	err := fmt.Errorf("redispub: stream %s: %w", stream, errors.New(text))
	for _, prefix := range []string{"WRONGTYPE ", "NOPERM "} {
		if strings.HasPrefix(text, prefix) {
			return &outbox.RejectedError{Err: err}
		}
	}
	return err
}
