package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
)

// remoteDesk is the desk of a console that is asked by HTTP. What it is told are the structs that the console's pages show.
type remoteDesk struct{ *caller }

func (a *app) newRemoteDesk() remoteDesk {
	return remoteDesk{newCaller(a.cfg.server, a.cfg.serverToken, a.cfg.actor)}
}

// remotePage is how many rows are asked for at once.
const remotePage = 500

func (d remoteDesk) Sagas(ctx context.Context, f pgengine.Filter) (all []pgengine.Status, err error) {
	wanted := f.States
	if f.Paused {
		if f.Archived {
			return nil, nil // what has ended is not
		}
		if len(wanted) == 0 {
			wanted = slices.DeleteFunc(slices.Clone(states), pgengine.State.Ended)
		}
	}
	var names []string
	for _, s := range wanted {
		names = append(names, string(s))
	}
	for after := f.After; ; {
		limit := remotePage
		if f.Limit > 0 && !f.Paused {
			limit = min(limit, f.Limit-len(all))
		}
		q := queryOf("state", strings.Join(names, ","), "name", f.Name, "tag", f.Tag, "key", f.Key, "after", after, "limit", strconv.Itoa(limit))
		if f.OlderThan > 0 {
			q.Set("older", f.OlderThan.String())
		}
		if f.YoungerThan > 0 {
			q.Set("younger", f.YoungerThan.String())
		}
		if f.Archived {
			q.Set("archived", "true")
		}
		var page sagaui.List
		if err := d.get(ctx, "sagas", q, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Sagas {
			if f.Limit > 0 && len(all) == f.Limit {
				return all, nil
			}
			if !f.Paused || s.PausedAt != nil {
				all = append(all, s.Status)
			}
		}
		// A page that is not full may only have stopped looking: there is more as long as there is a next one.
		if after = page.Next; after == "" || f.Limit > 0 && len(all) == f.Limit {
			return all, nil
		}
	}
}

// queryOf is of names and values, without those that are empty.
func queryOf(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

func (d remoteDesk) Saga(ctx context.Context, id string) (s pgengine.Status, err error) {
	return s, d.get(ctx, "sagas/"+id, nil, &s)
}

func (d remoteDesk) End(ctx context.Context, id string) (pgengine.Status, error) {
	for {
		s, err := d.Saga(ctx, id)
		switch {
		case err != nil || s.State == pgengine.Stuck:
			return s, err
		case s.State.Ended(): // the head of it, as an engine's Wait gives it
			s.Steps, s.Attempts, s.Children, s.Signals, s.Audit, s.RestartOf, s.RestartedAs = nil, nil, nil, nil, nil, "", ""
			return s, nil
		}
		if err := pause(ctx, watchEvery); err != nil {
			return s, err
		}
	}
}

func (d remoteDesk) History(ctx context.Context, id string) (pgengine.Status, []pgengine.Entry, error) {
	var h sagaui.History
	err := d.get(ctx, "sagas/"+id+"/history", nil, &h)
	return h.Status, h.Events, err
}

func (d remoteDesk) Workers(ctx context.Context, s pgengine.Status) ([]string, error) {
	var told struct {
		Workers []string `json:"workers"`
	}
	return told.Workers, d.get(ctx, "sagas/"+s.ID, nil, &told)
}

func (d remoteDesk) Graph(ctx context.Context, name string, version int) (g pgengine.Graph, found int, err error) {
	if version == 0 {
		if version, err = d.newest(ctx, name); err != nil {
			return g, 0, err
		}
	}
	var told sagaui.Definition
	err = d.get(ctx, fmt.Sprintf("definitions/%s/%d", url.PathEscape(name), version), nil, &told)
	if refused, ok := errors.AsType[*refusedError](err); ok && refused.code == http.StatusNotFound {
		err = &knownError{err, pgengine.ErrUnknownSaga}
	}
	told.Graph.Timeout = told.Timeout
	return told.Graph, told.Version, err
}

// newest is the highest version that a live worker has, else the highest there is.
func (d remoteDesk) newest(ctx context.Context, name string) (int, error) {
	all, err := d.Versions(ctx, name)
	if err != nil {
		return 0, err
	}
	best := func(a, b pgengine.VersionStatus) int {
		return cmp.Or(cmp.Compare(min(a.Workers, 1), min(b.Workers, 1)), cmp.Compare(a.Version, b.Version))
	}
	all = slices.DeleteFunc(all, func(v pgengine.VersionStatus) bool { return v.RegisteredAt == nil })
	if len(all) == 0 {
		return 0, fmt.Errorf("definition of %s: %w: no worker has registered it", name, pgengine.ErrUnknownSaga)
	}
	return slices.MaxFunc(all, best).Version, nil
}

func (d remoteDesk) Versions(ctx context.Context, name string) ([]pgengine.VersionStatus, error) {
	var told sagaui.Definitions
	err := d.get(ctx, "definitions", nil, &told)
	return slices.DeleteFunc(told.Versions, func(v pgengine.VersionStatus) bool { return name != "" && v.Name != name }), err
}

func (d remoteDesk) Schedules(ctx context.Context) ([]pgengine.ScheduleStatus, error) {
	var told sagaui.Schedules
	return told.Schedules, d.get(ctx, "schedules", nil, &told)
}

func (d remoteDesk) Schedule(ctx context.Context, name string) (s pgengine.ScheduleStatus, err error) {
	return s, d.get(ctx, "schedules/"+url.PathEscape(name), nil, &s)
}

func (d remoteDesk) Outbox(ctx context.Context) (s outbox.Status, err error) {
	return s, d.get(ctx, "outbox", nil, &s)
}

func (d remoteDesk) OutboxLetters(ctx context.Context, f outbox.DeadFilter) (all []outbox.Dead, err error) {
	for before := f.Before; ; {
		q := queryOf("topic", f.Topic, "key", f.Key)
		if before > 0 {
			q.Set("before", strconv.FormatInt(before, 10))
		}
		var page sagaui.Outbox
		if err := d.get(ctx, "outbox", q, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Letters...)
		switch {
		case f.Limit > 0 && len(all) >= f.Limit:
			return all[:f.Limit], nil
		case page.Next == 0:
			return all, nil
		}
		before = page.Next
	}
}

func (d remoteDesk) OutboxLetter(ctx context.Context, id int64) (l outbox.Dead, err error) {
	return l, d.get(ctx, fmt.Sprint("outbox/", id), nil, &l)
}

func (d remoteDesk) Inbox(ctx context.Context) (s inbox.State, err error) {
	return s, d.get(ctx, "inbox", nil, &s)
}

func (d remoteDesk) InboxLetters(ctx context.Context, f inbox.DeadFilter) (all []inbox.DeadLetter, err error) {
	for after := f.After; ; {
		q := queryOf("consumer", f.Consumer)
		if after > 0 {
			q.Set("after", strconv.FormatInt(after, 10))
		}
		var page sagaui.Inbox
		if err := d.get(ctx, "inbox", q, &page); err != nil {
			return nil, err
		}
		for _, l := range page.Letters {
			if (f.Type == "" || l.Message.Type == f.Type) && (f.Reason == "" || l.Reason == f.Reason) {
				all = append(all, inboxLetter(l))
			}
			if f.Limit > 0 && len(all) == f.Limit {
				return all, nil
			}
		}
		if after = page.Next; after == 0 {
			return all, nil
		}
	}
}

func (d remoteDesk) InboxLetter(ctx context.Context, id int64) (inbox.DeadLetter, error) {
	var l sagaui.InboxLetter
	err := d.get(ctx, fmt.Sprint("inbox/", id), nil, &l)
	return inboxLetter(l), err
}

// inboxLetter is a letter as the console tells of it.
func inboxLetter(l sagaui.InboxLetter) inbox.DeadLetter {
	m := l.Message
	return inbox.DeadLetter{
		ID: l.ID, Consumer: l.Consumer, EventID: l.EventID, Reason: l.Reason, Error: l.Error, Attempts: l.Attempts, FirstAt: l.FirstAt,
		DiedAt: l.DiedAt, Redrives: l.Redrives, Redriving: l.Redriving, Size: l.Bytes,
		Message: inbox.Message{ID: m.ID, Source: m.Source, Attempt: m.Attempt, Topic: m.Topic, Key: m.Key, Type: m.Type, Headers: m.Headers, Payload: m.Payload},
	}
}

func (d remoteDesk) InboxDo(ctx context.Context, verb string, ids []int64, by pgengine.By) (touched []int64, err error) {
	for _, id := range ids {
		_, err := d.act(ctx, "inbox", strconv.FormatInt(id, 10), order{verb: verb, by: by})
		if refused, ok := errors.AsType[*refusedError](err); ok && refused.code == http.StatusNotFound {
			continue
		}
		if err != nil {
			return touched, err
		}
		touched = append(touched, id)
	}
	return touched, nil
}

func (d remoteDesk) Do(ctx context.Context, id string, o order) (done, error) {
	if o.on == aSaga {
		if o.by.Reason == "" {
			return done{}, usagef("--reason is missing: a console asks for one, and keeps it")
		}
		var err error
		if id, err = d.idOf(ctx, id, o); err != nil {
			return done{}, err
		}
	}
	told, err := d.act(ctx, o.on, id, o)
	return done{
		Started:  pgengine.Started{ID: told.Saga, Version: told.Version, Existed: told.Existed},
		Redriven: outbox.Redriven{ID: told.Message, Ordered: told.Ordered},
	}, err
}

// idOf is the id of a saga that is named by its id, or by NAME=KEY.
func (d remoteDesk) idOf(ctx context.Context, named string, o order) (string, error) {
	if isID(named) {
		return named, nil
	}
	name, key, _ := strings.Cut(named, "=")
	all, err := d.Sagas(ctx, pgengine.Filter{Name: name, Key: key, Limit: 1})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s %s to saga %s with key %q: %w", o.verb, o.signal, name, key, pgengine.ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	return all[0].ID, nil
}

// act asks for an action of the console's.
func (d remoteDesk) act(ctx context.Context, on, id string, o order) (sagaui.Done, error) {
	ask := sagaui.Ask{
		Seen: sagaui.Whatever, Reason: cmp.Or(o.by.Reason, "by the command line"), Step: o.step, Steps: o.steps, Outcome: string(o.outcome),
		Result: o.result, Signal: o.signal, Key: o.key, Payload: o.payload,
	}
	var told sagaui.Done
	return told, d.post(ctx, fmt.Sprintf("%s/%s/actions/%s", on, url.PathEscape(id), o.verb), ask, &told)
}
