package pgengine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Entry is something that happened to a saga, in its history.
type Entry struct {
	At        time.Time `json:"at"`
	What      string    `json:"what"` // started, begun, done, failed, skipped, nothing, attempt, signal, message, child, asked, answered, ended
	Step      string    `json:"step,omitempty"`
	Direction Direction `json:"direction,omitempty"`
	Who       string    `json:"who,omitempty"` // a worker, or whoever asked
	Text      string    `json:"text,omitempty"`
}

// MessageStatus is a message that a step of a saga wrote, without its payload.
type MessageStatus struct {
	At     time.Time `json:"at"`
	ID     string    `json:"id"`
	Topic  string    `json:"topic"`
	Key    string    `json:"key,omitempty"`
	Type   string    `json:"type"`
	Step   string    `json:"step,omitempty"`
	Became string    `json:"became"` // written, scheduled, given up
}

// Messages tells which messages a saga's steps wrote, as far as the outbox still knows: one that was published is known for
// as long as published messages are kept.
func (e *Engine) Messages(ctx context.Context, id string) ([]MessageStatus, error) {
	rows, err := e.pool.Query(ctx, sql.MessageList, id)
	if err != nil {
		return nil, fmt.Errorf("messages of saga %s: %w", id, err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[MessageStatus])
	if err != nil {
		return nil, fmt.Errorf("messages of saga %s: %w", id, err)
	}
	return messages, nil
}

// History tells all that happened to a saga, in the order of time, also of one that is archived.
//
// Error: [ErrNotFound].
func (e *Engine) History(ctx context.Context, id string) (Status, []Entry, error) {
	s, err := e.Get(ctx, id)
	if err != nil {
		return s, nil, err
	}
	messages, err := e.Messages(ctx, s.ID)
	if err != nil {
		return s, nil, err
	}
	return s, s.Events(messages), nil
}

// Events are what [Engine.History] tells, of what Get has given and Messages tells. What was taken out of s, such as results that
// not everybody may see, is not told.
func (s Status) Events(messages []MessageStatus) (events []Entry) {
	add := func(at *time.Time, e Entry) {
		if at != nil {
			e.At = *at
			events = append(events, e)
		}
	}
	begun := fmt.Sprintf("%s version %d", s.Name, s.Version)
	for _, more := range []struct{ what, is string }{{"key", s.Key}, {"part of", s.Parent}, {"goes on for", s.RestartOf}} {
		if more.is != "" {
			begun += ", " + more.what + " " + more.is
		}
	}
	add(&s.CreatedAt, Entry{What: "started", Text: begun})
	for _, t := range s.Steps {
		e := Entry{Step: t.Step, Direction: t.Direction, Who: t.Worker}
		switch {
		case t.Origin != "":
			e.What, e.Text = t.State, "taken over from saga "+t.Origin
			add(&s.CreatedAt, e)
			continue
		case t.StartedAt != nil && t.Worker != "":
			e.What = "begun"
			add(t.StartedAt, e)
		}
		e.What, e.Text = t.State, joined(t.Error, t.Note)
		if t.InDoubt {
			e.Text = joined("nobody knows whether it happened", e.Text)
		}
		if t.State == "done" && t.Direction == Do && t.Error == "" && t.Note == "" {
			e.Text = string(t.Result)
		}
		add(t.EndedAt, e)
	}
	for _, a := range s.Attempts {
		add(&a.EndedAt, Entry{What: "attempt", Step: a.Step, Direction: a.Direction, Who: a.Worker, Text: fmt.Sprintf("#%d %s: %s", a.Attempt, a.Kind, a.Error)})
	}
	for _, g := range s.Signals {
		add(&g.SentAt, Entry{What: "signal", Step: g.Step, Text: joined(g.Name, g.Key)})
	}
	for _, m := range messages {
		add(&m.At, Entry{What: "message", Step: m.Step, Text: strings.TrimSpace(fmt.Sprintf("%s: %s to %s %s", m.Became, m.Type, m.Topic, m.Key))})
	}
	for _, c := range s.Children {
		if at := idTime(c.ID); at != nil {
			add(at, Entry{What: "child", Step: c.Step, Text: fmt.Sprintf("#%d %s %s, now %s", c.Item, c.Name, c.ID, c.State)})
		}
	}
	for _, a := range s.Audit {
		add(&a.At, Entry{What: "asked", Step: a.Step, Who: a.Actor, Text: joined(a.Verb, detail(a.Details), a.Reason)})
		add(a.AnsweredAt, Entry{What: "answered", Step: a.Step, Text: joined(a.Verb, a.Answer, a.Why)})
	}
	if s.EndedAt != nil {
		text := string(s.State)
		if s.Cause != nil {
			text = joined(text, s.Cause.String())
		}
		add(s.EndedAt, Entry{What: "ended", Text: text})
	}
	slices.SortStableFunc(events, func(a, b Entry) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		last := func(e Entry) int { // what ends the saga is told after what ended with it
			if e.What == "ended" {
				return 1
			}
			return 0
		}
		return cmp.Compare(last(a), last(b))
	})
	return events
}

// joined puts together what is not empty.
func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ": ")
}

// detail is what else was said, of an audit.
func detail(raw json.RawMessage) string {
	text := strings.Trim(string(raw), "{}")
	return strings.ReplaceAll(text, `"`, "")
}

// idTime is when a UUIDv7 was made; nil: it is none.
func idTime(id string) *time.Time {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 {
		return nil
	}
	seconds, nanoseconds := parsed.Time().UnixTime()
	at := time.Unix(seconds, nanoseconds)
	return &at
}
