package integration

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
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
	silence   time.Duration // how long a member of a group may say nothing before it is given up; 0: for ever
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
				s := &PostSession{post: p, held: map[int]inbox.Delivery{}, last: rand.Int()} // no two sessions have a tag in common
				server := rpc.NewServer()
				_ = server.RegisterName("Post", s) // its methods are fit for it
				server.ServeConn(listening{conn, s})
				s.hangUp()
			}()
		}
	}()
	return listener.Addr().String()
}

// listening is a connection that is given up when its member falls silent.
type listening struct {
	net.Conn
	session *PostSession
}

func (l listening) Read(b []byte) (int, error) {
	l.session.mu.Lock()
	member := l.session.source != nil
	l.session.mu.Unlock()
	if member && l.session.post.silence > 0 {
		_ = l.SetReadDeadline(time.Now().Add(l.session.post.silence))
	}
	return l.Conn.Read(b)
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

// postSource is a member of a group at a post. Given up, it joins again.
type postSource struct {
	address, group string

	mu     sync.Mutex
	client *rpc.Client
}

func joinPost(address, group string) (inbox.Source, error) {
	s := &postSource{address: address, group: group}
	return s, s.join()
}

func (s *postSource) join() (err error) {
	if s.client, err = rpc.Dial("tcp", s.address); err != nil {
		return err
	}
	return s.client.Call("Post.Join", s.group, new(bool))
}

func (s *postSource) call(ctx context.Context, method string, ask, answer any) error {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	err := call(ctx, client, method, ask, answer)
	if errors.Is(err, rpc.ErrShutdown) || errors.Is(err, io.ErrUnexpectedEOF) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.client == client {
			_ = s.join() // or the next time
		}
	}
	return err
}

func (s *postSource) Fetch(ctx context.Context, most int) ([]inbox.Delivery, error) {
	for {
		var parcels []PostParcel
		if err := s.call(ctx, "Post.Fetch", most, &parcels); err != nil {
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

func (s *postSource) Ack(ctx context.Context, deliveries []inbox.Delivery) error {
	return s.call(ctx, "Post.Ack", tags(deliveries), new(bool))
}

func (s *postSource) Release(ctx context.Context, deliveries []inbox.Delivery) error {
	return s.call(ctx, "Post.Release", tags(deliveries), new(bool))
}

func (s *postSource) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client.Close()
}
