package sagaui

import (
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
)

// Outbox is how the outbox stands, and a page of its dead letters, the newest first.
type Outbox struct {
	outbox.Status
	Letters []outbox.Dead `json:"letters"`
	Next    int64         `json:"next,omitempty"` // give it as before; 0: that was all

	Topic string `json:"-"`
	Key   string `json:"-"`
}

// Idle is how many buckets nobody has.
func (o Outbox) Idle() (n int) {
	for _, b := range o.Buckets {
		if b.Relay == "" {
			n++
		}
	}
	return n
}

// Busy are the buckets that there is something to say of.
func (o Outbox) Busy() (all []outbox.BucketStatus) {
	for _, b := range o.Buckets {
		if b.Pending > 0 || b.StuckKeys > 0 {
			all = append(all, b)
		}
	}
	return all
}

func (c *console) outbox(r *http.Request) (any, error) {
	q := r.URL.Query()
	before, err := number(q.Get("before"))
	if err != nil {
		return nil, err
	}
	o := Outbox{Topic: q.Get("topic"), Key: q.Get("key")}
	if o.Status, err = outbox.Glance(r.Context(), c.engine.Pool(), mostCounted); err != nil {
		return nil, err
	}
	o.Letters, err = outbox.DeadLetters(r.Context(), c.engine.Pool(), outbox.DeadFilter{Topic: o.Topic, Key: o.Key, Before: before, Limit: perPage})
	if err != nil {
		return nil, err
	}
	for i := range o.Letters {
		o.Letters[i].Headers = nil // one at a time
	}
	if o.Letters == nil {
		o.Letters = []outbox.Dead{}
	}
	if len(o.Letters) == perPage {
		o.Next = o.Letters[perPage-1].ID
	}
	return o, nil
}

// number reads an id of dead letters; "" is 0.
func number(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, &refusal{code: http.StatusNotFound, say: "There is no dead letter of that number."}
	}
	return n, nil
}

// OutboxLetter is a message that was given up.
type OutboxLetter struct {
	outbox.Dead
	Withheld bool `json:"withheld,omitempty"` // the payload, for want of permission

	Body    text    `json:"-"`
	Actions []offer `json:"-"`
}

func (c *console) outboxLetter(r *http.Request) (any, error) {
	s, err := loadOutboxLetter(c, r)
	if err != nil {
		return nil, err
	}
	l := OutboxLetter{Dead: *s.outbox, Actions: c.offers(r, s)}
	if c.may(r, Payloads, nil) != nil {
		l.Payload, l.Headers, l.Withheld = nil, nil, true
	}
	l.Body = c.pretty(l.Payload)
	return l, nil
}

// Inbox is how the inbox stands, and a page of its dead letters, the oldest first.
type Inbox struct {
	inbox.State
	Letters []InboxLetter `json:"letters"`
	Next    int64         `json:"next,omitempty"` // give it as after; 0: that was all

	Consumer string `json:"-"`
}

func (c *console) inbox(r *http.Request) (any, error) {
	q := r.URL.Query()
	after, err := number(q.Get("after"))
	if err != nil {
		return nil, err
	}
	i := Inbox{Consumer: q.Get("consumer"), Letters: []InboxLetter{}}
	err = c.reads(r.Context(), func(tx pgx.Tx) (err error) {
		i.State, err = inbox.Status(r.Context(), tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	dead, err := inbox.DeadLetters(r.Context(), c.engine.Pool(), inbox.DeadFilter{Consumer: i.Consumer, After: after, Limit: perPage, Heads: true})
	if err != nil {
		return nil, err
	}
	for _, d := range dead {
		i.Letters = append(i.Letters, letterOf(d))
	}
	if len(dead) == perPage {
		i.Next = dead[perPage-1].ID
	}
	return i, nil
}

// InboxLetter is a message that a consumer has given up.
type InboxLetter struct {
	ID        int64         `json:"id"`
	Consumer  string        `json:"consumer"`
	EventID   string        `json:"event_id"`
	Message   letterMessage `json:"message"`
	Reason    string        `json:"reason"`
	Error     string        `json:"error"`
	Attempts  int           `json:"attempts"`
	FirstAt   time.Time     `json:"first_at"`
	DiedAt    time.Time     `json:"died_at"`
	Redrives  int           `json:"redrives"`
	Redriving bool          `json:"redriving"`
	Bytes     int           `json:"bytes"`              // of the payload as it is stored
	Withheld  bool          `json:"withheld,omitempty"` // the payload, for want of permission

	Body    text    `json:"-"`
	Actions []offer `json:"-"`
}

type letterMessage struct {
	ID      string            `json:"id"`
	Source  string            `json:"source,omitempty"`
	Attempt string            `json:"attempt,omitempty"` // of one that was sent again on purpose
	Topic   string            `json:"topic"`
	Key     string            `json:"key,omitempty"`
	Type    string            `json:"type,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Payload []byte            `json:"payload,omitempty"`
}

func letterOf(d inbox.DeadLetter) InboxLetter {
	m := d.Message
	return InboxLetter{
		ID: d.ID, Consumer: d.Consumer, EventID: d.EventID,
		Message: letterMessage{m.ID, m.Source, m.Attempt, m.Topic, m.Key, m.Type, m.Headers, m.Payload},
		Reason:  d.Reason, Error: d.Error, Attempts: d.Attempts, FirstAt: d.FirstAt, DiedAt: d.DiedAt, Redrives: d.Redrives, Redriving: d.Redriving,
		Bytes: d.Size,
	}
}

func (c *console) inboxLetter(r *http.Request) (any, error) {
	s, err := loadInboxLetter(c, r)
	if err != nil {
		return nil, err
	}
	l := letterOf(*s.inbox)
	l.Actions = c.offers(r, s)
	if c.may(r, Payloads, nil) != nil {
		l.Message.Payload, l.Message.Headers, l.Withheld = nil, nil, true
	}
	l.Body = c.pretty(l.Message.Payload)
	return l, nil
}

// Link leads from the letter's own page to what lies below it.
func (l OutboxLetter) Link() string { return strconv.FormatInt(l.ID, 10) }

// Bytes is the payload's size.
func (l OutboxLetter) Bytes() int64 { return int64(l.Size) }

// Link leads from the letter's own page to what lies below it.
func (l InboxLetter) Link() string { return strconv.FormatInt(l.ID, 10) }
