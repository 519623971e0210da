//go:build unix

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// switchboard is a broker that lives in the test's process, so that it outlives all others: a log of partitions, with groups
// of consumers whose members are given up when they fall silent, as Kafka does it. It can be told to fail before and after it has
// taken what is published.
type switchboard struct {
	url     string
	broker  *memorysub.Broker
	trouble atomic.Int64     // of 100 calls, how many fail
	to      outbox.Publisher // takes what is published, and answers for each event; nil: the log does

	mu      sync.Mutex
	log     []outbox.Event // as they arrived
	members map[string]*member
	failed  int
}

type member struct {
	source *memorysub.Source
	seen   time.Time
	calls  int // under way
	next   int
	out    map[int]inbox.Delivery
}

// silence is how long a member may be silent.
const silence = 2 * time.Second

func newSwitchboard(t testing.TB) *switchboard {
	s := &switchboard{broker: memorysub.New(memorysub.Config{Partitions: 12}), members: map[string]*member{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/publish", s.publish)
	mux.HandleFunc("/fetch", s.fetch)
	mux.HandleFunc("/ack", s.ack)
	server := httptest.NewServer(mux)
	s.url = server.URL
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			s.expel()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func (s *switchboard) publish(w http.ResponseWriter, r *http.Request) {
	var events []outbox.Event
	if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.to != nil {
		answers := make([]string, len(events))
		for i, err := range s.to.Publish(r.Context(), events) {
			if err != nil {
				answers[i] = err.Error()
			}
		}
		_ = json.NewEncoder(w).Encode(answers)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fails := rand.Int64N(100) < s.trouble.Load()
	if fails {
		s.failed++
	}
	if fails && rand.IntN(2) == 0 {
		http.Error(w, "taken nothing", http.StatusServiceUnavailable)
		return
	}
	for _, e := range events {
		s.log = append(s.log, e)
		s.broker.Publish(inbox.Message{ID: e.ID.String(), Topic: e.Topic, Key: e.Key, Type: e.Type, Payload: e.Payload})
	}
	if fails { // the worst moment
		http.Error(w, "taken all, and says that it has not", http.StatusServiceUnavailable)
		return
	}
	_ = json.NewEncoder(w).Encode([]string{})
}

type fetched struct {
	Tag         int
	Message     inbox.Message
	Redelivered int
}

func (s *switchboard) fetch(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("member")
	limit, _ := strconv.Atoi(r.FormValue("max"))
	s.mu.Lock()
	m := s.members[name]
	if m == nil {
		m = &member{source: s.broker.Source(r.FormValue("group")), out: map[int]inbox.Delivery{}}
		s.members[name] = m
	}
	m.seen = time.Now()
	m.calls++
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), 200*time.Millisecond)
	defer cancel()
	deliveries, _ := m.source.Fetch(ctx, limit)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.calls--
	m.seen = time.Now()
	all := []fetched{}
	for _, d := range deliveries {
		m.next++
		m.out[m.next] = d
		all = append(all, fetched{m.next, d.Message, d.Redelivered})
	}
	_ = json.NewEncoder(w).Encode(all)
}

func (s *switchboard) ack(w http.ResponseWriter, r *http.Request) {
	var tags []int
	_ = json.NewDecoder(r.Body).Decode(&tags)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[r.FormValue("member")]
	if m == nil {
		return // it was given up, and what it acks is delivered again
	}
	m.seen = time.Now()
	var deliveries []inbox.Delivery
	for _, tag := range tags {
		deliveries = append(deliveries, m.out[tag])
		delete(m.out, tag)
	}
	if r.FormValue("release") != "" {
		_ = m.source.Release(r.Context(), deliveries)
		return
	}
	_ = m.source.Ack(r.Context(), deliveries)
}

// expel gives up members that have fallen silent.
func (s *switchboard) expel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, m := range s.members {
		if m.calls == 0 && time.Since(m.seen) > silence {
			_ = m.source.Close()
			delete(s.members, name)
		}
	}
}

func (s *switchboard) arrived() []outbox.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log[:len(s.log):len(s.log)]
}

// line is a process's way to the switchboard: an [outbox.Publisher], and an [inbox.Source] for a member of a group.
type line struct {
	url, group, member string
	http               *http.Client
}

func newLine(url, group string) *line {
	return &line{url: url, group: group, member: uuid.NewString(), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
}

func (l *line) post(ctx context.Context, path string, body, answer any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	response, err := l.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// Publish is [outbox.Publisher]'s.
func (l *line) Publish(ctx context.Context, events []outbox.Event) []error {
	errs := make([]error, len(events))
	var answers []string // none: all is well
	err := l.post(ctx, "/publish", events, &answers)
	for i := range errs {
		switch {
		case err != nil:
			errs[i] = err
		case len(answers) == 0 || answers[i] == "":
		case answers[i] == outbox.ErrHeld.Error():
			errs[i] = outbox.ErrHeld
		case strings.HasPrefix(answers[i], "rejected"):
			errs[i] = &outbox.RejectedError{Err: errors.New(answers[i])}
		default:
			errs[i] = errors.New(answers[i])
		}
	}
	return errs
}

// Fetch is [inbox.Source]'s.
func (l *line) Fetch(ctx context.Context, limit int) (deliveries []inbox.Delivery, err error) {
	for len(deliveries) == 0 {
		var all []fetched
		if err := l.post(ctx, fmt.Sprintf("/fetch?group=%s&member=%s&max=%d", l.group, l.member, limit), nil, &all); err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		for _, f := range all {
			deliveries = append(deliveries, inbox.Delivery{Message: f.Message, Redelivered: f.Redelivered, Tag: f.Tag})
		}
	}
	return deliveries, nil
}

func tags(deliveries []inbox.Delivery) (all []int) {
	for _, d := range deliveries {
		all = append(all, d.Tag.(int))
	}
	return all
}

// Ack is [inbox.Source]'s.
func (l *line) Ack(ctx context.Context, deliveries []inbox.Delivery) error {
	return l.post(ctx, "/ack?member="+l.member, tags(deliveries), nil)
}

// Release is [inbox.Source]'s.
func (l *line) Release(ctx context.Context, deliveries []inbox.Delivery) error {
	return l.post(ctx, "/ack?release=yes&member="+l.member, tags(deliveries), nil)
}

// Close is that of both. The switchboard notices.
func (l *line) Close() error {
	l.http.CloseIdleConnections()
	return nil
}
