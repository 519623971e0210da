package amqppub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/pgsagaz/pgsagaz/cloudevents"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// Publisher is an [outbox.Publisher]. Its methods may be called at once.
type Publisher struct {
	cfg Config

	connecting chan struct{} // holds one while somebody connects
	mu         sync.Mutex
	conn       *connection // nil: none yet
	ending     sync.WaitGroup
}

var _ outbox.Publisher = (*Publisher)(nil)

// New makes a publisher. It connects when it first publishes.
func New(cfg Config) (*Publisher, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Publisher{cfg: cfg, connecting: make(chan struct{}, 1)}, nil
}

// Close closes the connection.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.conn != nil {
		err = p.conn.End()
	}
	p.ending.Wait()
	if err != nil {
		return fmt.Errorf("amqppub: closing: %w", err)
	}
	return nil
}

// Publish sends events, one a key at a time.
func (p *Publisher) Publish(ctx context.Context, events []outbox.Event) []error {
	return outbox.Rounds{
		Target:  func(outbox.Event) string { return "" },
		OneAKey: true,
		Send: func(ctx context.Context, _ string, lot []outbox.Event) []error {
			errs := make([]error, 0, len(lot))
			for part := range slices.Chunk(lot, p.cfg.MaxInFlight) {
				errs = append(errs, p.send(ctx, part)...)
			}
			return errs
		},
	}.Publish(ctx, events)
}

// send sends events that are to be confirmed together. Where RabbitMQ closes the channel for the sake of one of them, those
// without an answer are sent again one by one.
func (p *Publisher) send(ctx context.Context, lot []outbox.Event) []error {
	answers := p.attempt(ctx, lot)
	errs := make([]error, len(lot))
	for i, a := range answers {
		if a.exception {
			a = p.attempt(ctx, lot[i:i+1])[0]
			if a.exception {
				a.err = &outbox.RejectedError{Err: a.err}
			}
		}
		errs[i] = a.err
	}
	return errs
}

// answer is what became of an event.
type answer struct {
	err       error
	exception bool // RabbitMQ closed the channel for something that this message or one beside it did
}

// attempt sends events once.
func (p *Publisher) attempt(ctx context.Context, lot []outbox.Event) []answer {
	answers := make([]answer, len(lot))
	fail := func(err error) []answer {
		for i := range answers {
			answers[i].err = err
		}
		return answers
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	conn, err := p.connection(ctx)
	if err != nil {
		return fail(err)
	}
	for i, e := range lot {
		answers[i].err = p.prepare(ctx, conn, e)
	}
	ch, err := conn.open(ctx, p.cfg.MaxInFlight)
	if err != nil {
		return fail(err)
	}
	confirmations := make([]*amqp.DeferredConfirmation, len(lot))
	err = conn.Within(ctx, func() error {
		for i, e := range lot {
			if answers[i].err != nil {
				continue
			}
			exchange, key := p.cfg.Route(e)
			c, err := ch.PublishWithDeferredConfirm(exchange, key, p.cfg.Unroutable == Reject, false, p.message(e))
			if err != nil {
				return err
			}
			confirmations[i] = c
		}
		return nil
	})
	clean := err == nil
	for i, c := range confirmations {
		switch {
		case answers[i].err != nil: // it was not sent
		case c == nil:
			answers[i].err = fmt.Errorf("amqppub: not sent: %w", err)
		default:
			if acked, err := c.WaitContext(ctx); err != nil {
				answers[i].err, clean = fmt.Errorf("amqppub: not confirmed: %w", err), false
			} else if !acked {
				answers[i].err = errors.New("amqppub: RabbitMQ did not take it, as of a queue that is full")
			}
		}
	}
	for _, r := range ch.returned() {
		for i, e := range lot {
			if e.ID.String() == r.MessageId && answers[i].err == nil {
				answers[i].err = &outbox.RejectedError{Err: fmt.Errorf("amqppub: exchange %q, routing key %q: %s (%d)", r.Exchange, r.RoutingKey, r.ReplyText, r.ReplyCode)}
			}
		}
	}
	if why, closed := ch.closed(); closed {
		p.blame(conn, lot, answers, why)
	} else {
		p.giveBack(conn, ch, clean)
	}
	return answers
}

// blame says of the events without an answer what has closed their channel.
func (p *Publisher) blame(conn *connection, lot []outbox.Event, answers []answer, why *amqp.Error) {
	exception := isException(why)
	for i, e := range lot {
		if answers[i].err == nil || errors.As(answers[i].err, new(*outbox.RejectedError)) {
			continue
		}
		exchange, _ := p.cfg.Route(e)
		answers[i] = answer{err: fmt.Errorf("amqppub: exchange %q: %w", exchange, closedBy(why)), exception: exception}
		if exception {
			conn.forget(exchange) // it may be gone
		}
	}
}

// prepare makes sure that there is somewhere to send e to.
func (p *Publisher) prepare(ctx context.Context, conn *connection, e outbox.Event) error {
	exchange, key := p.cfg.Route(e)
	for what, name := range map[string]string{"exchange": exchange, "routing key": key, "type": e.Type} {
		if len(name) > maxName {
			return &outbox.RejectedError{Err: fmt.Errorf("amqppub: a %s of %d bytes is too long, the limit is %d", what, len(name), maxName)}
		}
	}
	for name := range e.Headers {
		if len(name) > maxName {
			return &outbox.RejectedError{Err: fmt.Errorf("amqppub: a header's name of %d bytes is too long, the limit is %d", len(name), maxName)}
		}
	}
	if exchange == "" {
		return nil
	}
	return conn.know(ctx, exchange, func(ch *amqp.Channel) error {
		if p.cfg.Topology == Check {
			return ch.ExchangeDeclarePassive(exchange, p.cfg.Kind, true, false, false, false, nil)
		}
		return ch.ExchangeDeclare(exchange, p.cfg.Kind, true, false, false, false, nil)
	})
}

// maxName is AMQP's limit for names, in bytes.
const maxName = 255

func (p *Publisher) message(e outbox.Event) amqp.Publishing {
	headers, body := p.cfg.Format.Encode(e, cloudevents.AMQPPrefix)
	m := amqp.Publishing{MessageId: e.ID.String(), Type: e.Type, Timestamp: e.CreatedAt, DeliveryMode: amqp.Persistent, Body: body,
		ContentType: headers[cloudevents.ContentType], Headers: amqp.Table{}}
	if len(m.ContentType) > maxName {
		m.ContentType = "" // it stands among the headers as well
	} else {
		delete(headers, cloudevents.ContentType)
	}
	if p.cfg.Transient {
		m.DeliveryMode = amqp.Transient
	}
	for name, value := range headers {
		m.Headers[name] = value
	}
	return m
}
