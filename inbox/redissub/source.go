package redissub

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgsagaz/pgsagaz/inbox"
)

var (
	//go:embed keep.lua
	keepSource string
	//go:embed release.lua
	releaseSource string
	//go:embed forget.lua
	forgetSource string

	keep    = redis.NewScript(keepSource)
	release = redis.NewScript(releaseSource)
	forget  = redis.NewScript(forgetSource)
)

// Source is an [inbox.Source] and an [inbox.Lagger].
type Source struct {
	cfg    Config
	client redis.UniversalClient // for all but reading
	reader reader
	held   held

	// Fetch's own:
	answer chan answer      // of the read that is under way; nil: none is
	ready  []inbox.Delivery // fetched, and not handed out
	begun  bool

	running sync.WaitGroup
	stop    context.CancelFunc
	stopped context.Context
}

type answer struct {
	deliveries []inbox.Delivery
	err        error
}

// tag is what a delivery carries for Ack.
type tag struct{ stream, id string }

var (
	_ inbox.Source = (*Source)(nil)
	_ inbox.Lagger = (*Source)(nil)
)

// New makes a source. It connects when it first fetches.
func New(cfg Config) (*Source, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, client: redis.NewUniversalClient(&cfg.Options)}
	s.held.revoked = map[tag]chan struct{}{}
	s.reader.init(cfg, &s.held)
	s.stopped, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Fetch waits for entries.
func (s *Source) Fetch(ctx context.Context, maximum int) ([]inbox.Delivery, error) {
	if !s.begun {
		s.begun = true
		s.running.Go(func() { s.keepHeld(s.stopped) })
	}
	for len(s.ready) == 0 {
		if s.answer == nil {
			reply := make(chan answer, 1)
			s.answer = reply
			s.running.Go(func() {
				deliveries, err := s.reader.read(s.stopped, maximum)
				reply <- answer{deliveries, err}
			})
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case a := <-s.answer:
			s.answer = nil
			if a.err != nil {
				return nil, fmt.Errorf("redissub: group %s: %w", s.cfg.Group, a.err)
			}
			s.ready = a.deliveries
		}
	}
	n := min(maximum, len(s.ready))
	deliveries := s.ready[:n:n]
	s.ready = s.ready[n:]
	return deliveries, nil
}

// byStream are the ids of deliveries.
func byStream(deliveries []inbox.Delivery) map[string][]string {
	streams := map[string][]string{}
	for _, d := range deliveries {
		t := d.Tag.(tag)
		streams[t.stream] = append(streams[t.stream], t.id)
	}
	return streams
}

// Ack acks entries, also such as have been taken over: they have been dealt with.
func (s *Source) Ack(ctx context.Context, deliveries []inbox.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for stream, ids := range byStream(deliveries) {
		if err := s.client.XAck(ctx, stream, s.cfg.Group, ids...).Err(); err != nil {
			return fmt.Errorf("redissub: ack of %d entries of stream %s: %w", len(ids), stream, err)
		}
		s.held.drop(stream, ids)
	}
	return nil
}

// Release makes entries claimable at once.
func (s *Source) Release(ctx context.Context, deliveries []inbox.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for stream, ids := range byStream(deliveries) {
		s.held.drop(stream, ids)
		if err := s.release(ctx, stream, ids); err != nil {
			return err
		}
	}
	return nil
}

func (s *Source) release(ctx context.Context, stream string, ids []string) error {
	args := []any{s.cfg.Group, s.cfg.Consumer, 2 * s.cfg.ClaimAfter.Milliseconds()}
	for _, id := range ids {
		args = append(args, id)
	}
	if err := release.Run(ctx, s.client, []string{stream}, args...).Err(); err != nil {
		return fmt.Errorf("redissub: release of %d entries of stream %s: %w", len(ids), stream, err)
	}
	return nil
}

// Close gives back all that this consumer holds.
func (s *Source) Close() error {
	s.stop()
	s.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	defer cancel()
	var errs []error
	if s.begun {
		for _, topic := range s.cfg.Topics {
			errs = append(errs, s.leave(ctx, s.cfg.Prefix+topic))
		}
	}
	s.held.drop("", nil)
	for _, c := range []redis.UniversalClient{s.client, s.reader.client} {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) { // a connection that is broken already is closed well enough
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Source) leave(ctx context.Context, stream string) error {
	for start := "-"; ; {
		pending, err := s.client.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: stream, Group: s.cfg.Group, Consumer: s.cfg.Consumer,
			Start: start, End: "+", Count: 500}).Result()
		if isNoGroup(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("redissub: leaving stream %s: %w", stream, err)
		}
		if len(pending) == 0 {
			break
		}
		ids := make([]string, len(pending))
		for i, p := range pending {
			ids[i] = p.ID
		}
		if err := s.release(ctx, stream, ids); err != nil {
			return err
		}
		start = "(" + ids[len(ids)-1]
	}
	if err := forget.Run(ctx, s.client, []string{stream}, s.cfg.Group, s.cfg.Consumer).Err(); err != nil {
		return fmt.Errorf("redissub: leaving stream %s: %w", stream, err)
	}
	return nil
}

// Lag is how many entries of the streams no consumer of the group was given yet. Redis tells it from version 7 on.
func (s *Source) Lag(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var lag int64
	for _, topic := range s.cfg.Topics {
		groups, err := s.client.XInfoGroups(ctx, s.cfg.Prefix+topic).Result()
		if err != nil {
			return 0, fmt.Errorf("redissub: lag of stream %s: %w", s.cfg.Prefix+topic, err)
		}
		for _, g := range groups {
			if g.Name == s.cfg.Group {
				lag += max(0, g.Lag)
			}
		}
	}
	return lag, nil
}

// keepHeld tells Redis until ctx ends what this consumer holds, and consumers what it has lost.
func (s *Source) keepHeld(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.ClaimAfter / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for stream, ids := range s.held.list() {
			for ; len(ids) > 0; ids = ids[min(500, len(ids)):] {
				args := []any{s.cfg.Group, s.cfg.Consumer}
				for _, id := range ids[:min(500, len(ids))] {
					args = append(args, id)
				}
				bounded, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
				lost, err := keep.Run(bounded, s.client, []string{stream}, args...).StringSlice()
				cancel()
				if err != nil && ctx.Err() == nil {
					s.cfg.Logger.WarnContext(ctx, "redissub: what is held is not kept", "stream", stream, "entries", len(args)-2, "error", err)
				}
				s.held.revoke(stream, lost)
			}
		}
	}
}

func isNoGroup(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "NOGROUP")
}
