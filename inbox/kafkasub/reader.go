package kafkasub

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// readAll reads a partition into batches until ctx ends. It connects again after every error.
func readAll(ctx context.Context, cfg Config, p *partition, batches chan<- batch) {
	offset := p.position()
	for ctx.Err() == nil {
		err := read(ctx, cfg, p, &offset, batches)
		if ctx.Err() != nil {
			return
		}
		cfg.Logger.WarnContext(ctx, "kafkasub: reading failed", "topic", p.topic, "partition", p.id, "offset", offset, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// read reads from offset on, over one connection.
func read(ctx context.Context, cfg Config, p *partition, offset *int64, batches chan<- batch) error {
	conn, err := lead(ctx, cfg, p)
	if err != nil {
		return err
	}
	// A read knows no context.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	if err := settle(ctx, cfg, conn, p, offset); err != nil {
		return err
	}
	if _, err := conn.Seek(*offset, kafka.SeekAbsolute|kafka.SeekDontCheck); err != nil {
		return err
	}
	for {
		messages, err := readBatch(cfg, p, conn)
		if len(messages) > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case batches <- batch{p, messages}:
				*offset = messages[len(messages)-1].Offset + 1
			}
		}
		if err != nil {
			return err
		}
	}
}

// lead connects to the partition's leader, through the first broker that knows it.
func lead(ctx context.Context, cfg Config, p *partition) (conn *kafka.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*cfg.Timeout)
	defer cancel()
	for _, broker := range cfg.Brokers {
		if conn, err = cfg.dialer().DialLeader(ctx, "tcp", broker, p.topic, p.id); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// settle makes the offset one that there is.
func settle(ctx context.Context, cfg Config, conn *kafka.Conn, p *partition, offset *int64) error {
	_ = conn.SetDeadline(time.Now().Add(cfg.Timeout))
	first, last, err := conn.ReadOffsets()
	if err != nil {
		return err
	}
	log := cfg.Logger.With("topic", p.topic, "partition", p.id, "offset", *offset)
	switch at := *offset; {
	case at == kafka.FirstOffset:
		*offset = first
	case at == kafka.LastOffset:
		*offset = last
	case at < first:
		log.ErrorContext(ctx, "kafkasub: messages were deleted before they were read", "oldest", first, "lost", first-at)
		*offset = first
	case at > last:
		log.ErrorContext(ctx, "kafkasub: the log ends before what was read, so it is read again from its beginning", "oldest", first, "end", last)
		if cfg.Offsets != nil {
			if err := cfg.Offsets.Reset(ctx, inbox.Offset{Topic: p.topic, Partition: p.id, Next: first}); err != nil {
				return err
			}
		}
		*offset = first
	default:
		return nil
	}
	p.begin(*offset)
	return nil
}

// readBatch reads what there is, or waits some time for it. The whole batch is taken off the connection before any of
// it is handed out: a consumer may take long.
func readBatch(cfg Config, p *partition, conn *kafka.Conn) ([]kafka.Message, error) {
	const wait = 2 * time.Second
	_ = conn.SetDeadline(time.Now().Add(wait + cfg.Timeout))
	read := conn.ReadBatchWith(kafka.ReadBatchConfig{MinBytes: 1, MaxBytes: cfg.BatchBytes, MaxWait: wait, IsolationLevel: kafka.ReadCommitted})
	var messages []kafka.Message
	var err error
	for {
		var m kafka.Message
		if m, err = read.ReadMessage(); err != nil {
			break
		}
		m.Topic, m.Partition = p.topic, p.id
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
