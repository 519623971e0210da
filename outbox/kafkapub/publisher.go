package kafkapub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/cloudevents"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// Publisher is an [outbox.Publisher]. Its methods may be called at once.
type Publisher struct {
	cfg       Config
	transport *kafka.Transport
	client    *kafka.Client
	topics    topics
}

var _ outbox.Publisher = (*Publisher)(nil)

// New makes a publisher. It connects when it first publishes, so that a broker may start later than its publishers.
func New(cfg Config) (*Publisher, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dial := cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	transport := &kafka.Transport{Dial: dial, ClientID: cfg.ClientID, TLS: cfg.TLS, SASL: cfg.SASL, MetadataTTL: cfg.MetadataTTL}
	p := &Publisher{cfg: cfg, transport: transport, client: &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Transport: transport}}
	p.topics.init(p)
	return p, nil
}

// Close lets go of all connections.
func (p *Publisher) Close() error {
	p.transport.CloseIdleConnections()
	return nil
}

// Publish sends events, to several partitions at once.
func (p *Publisher) Publish(ctx context.Context, events []outbox.Event) []error {
	found := p.topics.findAll(ctx, events)
	places := map[string]place{}
	return outbox.Rounds{
		Target: func(e outbox.Event) string {
			at := p.place(e, found[e.Topic])
			target := at.topic + "/" + strconv.Itoa(at.partition)
			places[target] = at
			return target
		},
		Send: func(ctx context.Context, target string, lot []outbox.Event) []error {
			// Target runs between the rounds' Sends, not beside them: places is only read here.
			return p.send(ctx, places[target], lot)
		},
	}.Publish(ctx, events)
}

// place is where an event goes, or why it can't.
type place struct {
	topic     string
	partition int
	err       error
}

func (p *Publisher) place(e outbox.Event, t topic) place {
	if t.err != nil {
		return place{topic: e.Topic, partition: -1, err: t.err}
	}
	key := []byte(e.Key)
	if e.Key == "" {
		key = e.ID[:] // spread, and the same again at a new attempt
	}
	return place{topic: e.Topic, partition: p.cfg.Balancer.Balance(kafka.Message{Topic: e.Topic, Key: key}, t.partitions...)}
}

// send sends the events of one partition, batch after batch.
func (p *Publisher) send(ctx context.Context, at place, lot []outbox.Event) []error {
	errs := make([]error, len(lot))
	held := map[string]bool{} // keys with an event that was rejected
	limit := len(lot)         // how many events a batch may have
	for next := 0; next < len(lot); {
		if at.err != nil {
			errs[next] = at.err
			if held[lot[next].Key] {
				errs[next] = outbox.ErrHeld
			}
			hold(held, lot[next])
			next++
			continue
		}
		batch, end := p.batch(lot, errs, held, next, limit)
		if len(batch) == 0 {
			next = end
			continue
		}
		err := p.produce(ctx, at, lot, batch)
		switch {
		case err == nil:
			limit = min(2*limit, len(lot))
			next = end
		case refused(err) && len(batch) > 1:
			limit = len(batch) / 2 // one of them is to blame, and nothing was taken: which one?
		case refused(err):
			errs[batch[0]] = &outbox.RejectedError{Err: err}
			hold(held, lot[batch[0]])
			limit = len(lot)
			next = end
		default:
			for _, i := range batch {
				errs[i] = err
			}
			next = end
			at.err = fmt.Errorf("not sent, since what goes before it in the partition has failed: %w", err)
		}
	}
	return errs
}

func hold(held map[string]bool, e outbox.Event) {
	if e.Key != "" {
		held[e.Key] = true
	}
}

// batch picks the events that go into the next request, from lot[next] on: all up to end but those held.
func (p *Publisher) batch(lot []outbox.Event, errs []error, held map[string]bool, next, limit int) (batch []int, end int) {
	size := 0
	for end = next; end < len(lot) && len(batch) < limit; end++ {
		if held[lot[end].Key] {
			errs[end] = outbox.ErrHeld
			continue
		}
		size += sizeOf(lot[end])
		if len(batch) > 0 && size > p.cfg.BatchBytes {
			break
		}
		batch = append(batch, end)
	}
	return batch, end
}

// sizeOf is about what an event takes in a batch.
func sizeOf(e outbox.Event) int {
	size := 700 + len(e.Payload) + 4*len(e.Key) // attributes, most of them of known length
	for name, value := range e.Headers {
		size += len(name) + len(value) + 8
	}
	return size
}

// produce sends one request. nil: all of the batch is stored.
func (p *Publisher) produce(ctx context.Context, at place, lot []outbox.Event, batch []int) error {
	for attempt := 1; ; attempt++ {
		err := p.produceOnce(ctx, at, lot, batch)
		if attempt == 20 || !tookNothing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Publisher) produceOnce(ctx context.Context, at place, lot []outbox.Event, batch []int) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	records := make([]kafka.Record, 0, len(batch))
	for _, i := range batch {
		records = append(records, p.record(lot[i]))
	}
	response, err := p.client.Produce(ctx, &kafka.ProduceRequest{Topic: at.topic, Partition: at.partition, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(records...), Compression: p.cfg.Compression})
	if err == nil {
		err = response.Error
	}
	if err != nil {
		return fmt.Errorf("kafkapub: topic %s, partition %d: %w", at.topic, at.partition, err)
	}
	return nil
}

func (p *Publisher) record(e outbox.Event) kafka.Record {
	headers, body := p.cfg.Format.Encode(e, cloudevents.KafkaPrefix)
	r := kafka.Record{Time: time.Now(), Value: kafka.NewBytes(body)}
	if body == nil {
		r.Value = kafka.NewBytes([]byte{}) // null would be a tombstone
	}
	if e.Key != "" {
		r.Key = kafka.NewBytes([]byte(e.Key))
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		r.Headers = append(r.Headers, kafka.Header{Key: name, Value: []byte(headers[name])})
	}
	return r
}

// refused says whether the broker took nothing since it does not like what was sent.
func refused(err error) bool {
	for _, code := range []kafka.Error{
		kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.InvalidRecord, kafka.InvalidTimestamp, kafka.InvalidTopic,
		kafka.TopicAuthorizationFailed, kafka.PolicyViolation, kafka.UnsupportedForMessageFormat,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// tookNothing says whether the broker took nothing since it is not the one to ask, or not yet.
func tookNothing(err error) bool {
	for _, code := range []kafka.Error{kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.UnknownTopicOrPartition} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
