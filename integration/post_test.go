package integration

import (
	"context"
	"errors"
	"net"
	"net/rpc"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// post is a broker that other processes reach over the wire: they publish to publisher, and consume from broker.
type post struct {
	publisher outbox.Publisher
	broker    *memorysub.Broker
}

// listen serves it until the test ends. Whoever hangs up leaves his group, as with a real one.
func (p post) listen(t testing.TB) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				s := &PostSession{post: p, held: map[int]inbox.Delivery{}}
				server := rpc.NewServer()
				_ = server.RegisterName("Post", s) // its methods are fit for it
				server.ServeConn(conn)
				s.hangUp()
			}()
		}
	}()
	return listener.Addr().String()
}

// PostSession is one connection.
type PostSession struct {
	post post

	mu     sync.Mutex
	source *memorysub.Source
	held   map[int]inbox.Delivery
	last   int
}

// Publish is outbox.Publisher's.
func (s *PostSession) Publish(events []outbox.Event, answers *[]string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, err := range s.post.publisher.Publish(ctx, events) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		*answers = append(*answers, text)
	}
	return nil
}

// Join makes the connection a member of a group.
func (s *PostSession) Join(group string, _ *bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source = s.post.broker.Source(group)
	return nil
}

// PostParcel is a delivery on the wire.
type PostParcel struct {
	Message     inbox.Message
	Redelivered int
	Tag         int
}

// Fetch waits a moment for messages.
func (s *PostSession) Fetch(most int, parcels *[]PostParcel) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	deliveries, _ := s.source.Fetch(ctx, most) // none in time: the other side asks again
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range deliveries {
		s.last++
		s.held[s.last] = d
		*parcels = append(*parcels, PostParcel{d.Message, d.Redelivered, s.last})
	}
	return nil
}

// Ack is inbox.Source's.
func (s *PostSession) Ack(tags []int, _ *bool) error {
	return s.source.Ack(context.Background(), s.take(tags))
}

// Release is inbox.Source's.
func (s *PostSession) Release(tags []int, _ *bool) error {
	return s.source.Release(context.Background(), s.take(tags))
}

func (s *PostSession) take(tags []int) (deliveries []inbox.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tag := range tags {
		if d, ok := s.held[tag]; ok {
			deliveries = append(deliveries, d)
			delete(s.held, tag)
		}
	}
	return deliveries
}

func (s *PostSession) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source != nil {
		_ = s.source.Close()
	}
}

// call asks, and gives up when ctx ends.
func call(ctx context.Context, client *rpc.Client, method string, ask, answer any) error {
	c := client.Go(method, ask, answer, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.Done:
		return c.Error
	}
}

// postPublisher publishes to a post.
type postPublisher struct{ client *rpc.Client }

func (p postPublisher) Publish(ctx context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	var answers []string
	err := call(ctx, p.client, "Post.Publish", events, &answers)
	for i := range errs {
		switch {
		case err != nil:
			errs[i] = err
		case answers[i] == outbox.ErrHeld.Error():
			errs[i] = outbox.ErrHeld
		case strings.HasPrefix(answers[i], "rejected"):
			errs[i] = &outbox.RejectedError{Err: errors.New(answers[i])}
		case answers[i] != "":
			errs[i] = errors.New(answers[i])
		}
	}
	return errs
}

func (p postPublisher) Close() error { return p.client.Close() }

// postSource is a member of a group at a post.
type postSource struct{ client *rpc.Client }

func joinPost(address, group string) (inbox.Source, error) {
	client, err := rpc.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return postSource{client}, client.Call("Post.Join", group, new(bool))
}

func (s postSource) Fetch(ctx context.Context, most int) ([]inbox.Delivery, error) {
	for {
		var parcels []PostParcel
		if err := call(ctx, s.client, "Post.Fetch", most, &parcels); err != nil {
			return nil, err
		}
		var deliveries []inbox.Delivery
		for _, p := range parcels {
			deliveries = append(deliveries, inbox.Delivery{Message: p.Message, Redelivered: p.Redelivered, Tag: p.Tag})
		}
		if len(deliveries) > 0 {
			return deliveries, nil
		}
	}
}

func tags(deliveries []inbox.Delivery) (tags []int) {
	for _, d := range deliveries {
		tags = append(tags, d.Tag.(int))
	}
	return tags
}

func (s postSource) Ack(ctx context.Context, deliveries []inbox.Delivery) error {
	return call(ctx, s.client, "Post.Ack", tags(deliveries), new(bool))
}

func (s postSource) Release(ctx context.Context, deliveries []inbox.Delivery) error {
	return call(ctx, s.client, "Post.Release", tags(deliveries), new(bool))
}

func (s postSource) Close() error { return s.client.Close() }
