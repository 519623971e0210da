package kafkapub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/pgsagaz/pgsagaz/outbox"
)

// topic is what is known of one: its partitions, or why there are none.
type topic struct {
	partitions []int
	err        error
}

// topics asks for topics, and makes those that are missing where it is to. The transport keeps the answers for MetadataTTL.
type topics struct {
	p *Publisher

	mu     sync.Mutex
	absent map[string]time.Time // when a topic was last found to be missing
}

func (ts *topics) init(p *Publisher) {
	ts.p, ts.absent = p, map[string]time.Time{}
}

var errUnknown = errors.New("no such topic")

// findAll finds the topics of events. All that it has to wait for it waits for at once.
func (ts *topics) findAll(ctx context.Context, events []outbox.Event) map[string]topic {
	found := map[string]topic{}
	for _, e := range events {
		found[e.Topic] = topic{}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range slices.Collect(maps.Keys(found)) {
		wg.Go(func() {
			t := ts.find(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			found[name] = t
		})
	}
	wg.Wait()
	return found
}

// find waits for knowledge that is newer than a topic just made elsewhere, before it says that there is none.
func (ts *topics) find(ctx context.Context, name string) topic {
	t := ts.ask(ctx, name)
	if !errors.Is(t.err, errUnknown) {
		return t
	}
	if ts.p.cfg.UnknownTopic == Create {
		if err := ts.create(ctx, name); err != nil {
			return topic{err: err}
		}
	} else if ts.wasAbsent(name) {
		return topic{err: &outbox.RejectedError{Err: t.err}}
	}
	for begun := time.Now(); errors.Is(t.err, errUnknown) && time.Since(begun) < ts.p.cfg.MetadataTTL+time.Second; t = ts.ask(ctx, name) {
		select {
		case <-ctx.Done():
			return topic{err: ctx.Err()}
		case <-time.After(20 * time.Millisecond):
		}
	}
	switch {
	case !errors.Is(t.err, errUnknown):
		return t
	case ts.p.cfg.UnknownTopic == Create:
		return topic{err: fmt.Errorf("kafkapub: topic %s was created and is not to be seen yet", name)}
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.absent[name] = time.Now()
	return topic{err: &outbox.RejectedError{Err: t.err}}
}

// wasAbsent says whether the topic was missing a short while ago: then it is believed at once to be so still.
func (ts *topics) wasAbsent(name string) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return time.Since(ts.absent[name]) < 10*time.Second
}

func (ts *topics) ask(ctx context.Context, name string) topic {
	ctx, cancel := context.WithTimeout(ctx, ts.p.cfg.Timeout)
	defer cancel()
	answer, err := ts.p.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{name}})
	if err != nil {
		return topic{err: fmt.Errorf("kafkapub: %w", err)}
	}
	for _, t := range answer.Topics {
		if t.Name != name {
			continue
		}
		switch {
		case errors.Is(t.Error, kafka.UnknownTopicOrPartition):
			return topic{err: fmt.Errorf("kafkapub: topic %s: %w", name, errUnknown)}
		case refused(t.Error):
			return topic{err: &outbox.RejectedError{Err: fmt.Errorf("kafkapub: topic %s: %w", name, t.Error)}}
		case t.Error != nil:
			return topic{err: fmt.Errorf("kafkapub: topic %s: %w", name, t.Error)}
		case len(t.Partitions) > 0:
			partitions := make([]int, len(t.Partitions))
			for _, p := range t.Partitions {
				if p.ID < 0 || p.ID >= len(partitions) {
					return topic{err: fmt.Errorf("kafkapub: topic %s has %d partitions and one with number %d", name, len(partitions), p.ID)}
				}
				partitions[p.ID] = p.ID
			}
			return topic{partitions: partitions}
		}
	}
	return topic{err: fmt.Errorf("kafkapub: topic %s: %w", name, errUnknown)}
}

// create makes the topic. nil: it is there, or will be in a moment.
func (ts *topics) create(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, ts.p.cfg.Timeout)
	defer cancel()
	answer, err := ts.p.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{
		{Topic: name, NumPartitions: ts.p.cfg.Partitions, ReplicationFactor: ts.p.cfg.ReplicationFactor},
	}})
	if err == nil {
		err = answer.Errors[name]
	}
	switch {
	case err == nil || errors.Is(err, kafka.TopicAlreadyExists):
		return nil
	case refused(err) || errors.Is(err, kafka.ClusterAuthorizationFailed) || errors.Is(err, kafka.InvalidPartitionNumber) ||
		errors.Is(err, kafka.InvalidConfiguration):
		return &outbox.RejectedError{Err: fmt.Errorf("kafkapub: topic %s cannot be created: %w", name, err)}
	}
	return fmt.Errorf("kafkapub: topic %s cannot be created: %w", name, err)
}
