package kafkasub

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
)

// reader reads a partition into batches.
type reader struct {
	cfg    Config
	g      *generation
	p      *partition
	offset int64 // of the next message to be read
	read   bool  // any was
	over   bool  // the log was seen to end before offset, which is not on record yet
}

// run reads until ctx or the generation ends. It connects again after every error.
func (r *reader) run(ctx context.Context) {
	for {
		err := r.connected(ctx)
		if ctx.Err() != nil || r.g.hasEnded() {
			return
		}
		r.cfg.Logger.WarnContext(ctx, "kafkasub: reading failed", "topic", r.p.topic, "partition", r.p.id, "offset", r.offset, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// connected reads over one connection.
func (r *reader) connected(ctx context.Context) error {
	conn, err := r.lead(ctx)
	if err != nil {
		return err
	}
	// A read knows no context.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	if err := r.settle(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.Seek(r.offset, kafka.SeekAbsolute|kafka.SeekDontCheck); err != nil {
		return err
	}
	for {
		messages, err := r.batch(conn)
		if len(messages) > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case r.g.batches <- batch{r.p, messages}:
				r.offset, r.read = messages[len(messages)-1].Offset+1, true
			}
		}
		if err != nil {
			return err
		}
	}
}

// lead connects to the partition's leader, through the first broker that knows it.
func (r *reader) lead(ctx context.Context) (conn *kafka.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*r.cfg.Timeout)
	defer cancel()
	for _, broker := range r.cfg.Brokers {
		if conn, err = r.cfg.dialer().DialLeader(ctx, "tcp", broker, r.p.topic, r.p.id); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// settle makes the offset one that there is.
func (r *reader) settle(ctx context.Context, conn *kafka.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(r.cfg.Timeout))
	first, last, err := conn.ReadOffsets()
	if err != nil {
		return err
	}
	log := r.cfg.Logger.With("topic", r.p.topic, "partition", r.p.id, "offset", r.offset)
	switch at := r.offset; {
	case at == kafka.FirstOffset:
		r.offset = first
	case at == kafka.LastOffset:
		if err := r.g.begin(ctx, r.p, last); err != nil {
			return err
		}
		r.offset = last
	case at > last || r.over:
		r.over = true // whatever comes between: it may have grown by the next look
		if err := r.g.reset(ctx, r.cfg, r.p, first, !r.read); err != nil && !errors.Is(err, kafka.ErrGenerationEnded) {
			return err
		}
		log.ErrorContext(ctx, "kafkasub: the log ends before what was read, so it is read again from its beginning", "oldest", first, "end", last)
		if r.g.hasEnded() {
			return kafka.ErrGenerationEnded
		}
		r.offset, r.over = first, false
	case at < first:
		log.ErrorContext(ctx, "kafkasub: messages were deleted before they were read", "oldest", first, "lost", first-at)
		r.offset = first
	default:
		return nil
	}
	r.p.begin(r.offset)
	return nil
}

// batch reads what there is, or waits some time for it. The whole batch is taken off the connection before any of
// it is handed out: a consumer may take long.
func (r *reader) batch(conn *kafka.Conn) ([]kafka.Message, error) {
	const wait = 2 * time.Second
	_ = conn.SetDeadline(time.Now().Add(wait + r.cfg.Timeout))
	read := conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: r.cfg.BatchBytes, MaxWait: wait, IsolationLevel: kafka.ReadCommitted})
	var messages []kafka.Message
	var err error
	for {
		var m kafka.Message
		if m, err = read.ReadMessage(); err != nil {
			break
		}
		m.Topic, m.Partition = r.p.topic, r.p.id
		messages = append(messages, m)
	}
	closed := read.Close()
	if errors.Is(err, io.EOF) || errors.Is(err, kafka.RequestTimedOut) {
		err = closed
	}
	if errors.Is(err, kafka.RequestTimedOut) {
		err = nil
	}
	return messages, err
}
