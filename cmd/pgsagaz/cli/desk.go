package cli

import (
	"context"
	"encoding/json"
	"time"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// desk is where the commands ask that look after sagas, schedules and messages: an engine on the database (directDesk), or a console that is
// asked by HTTP (remoteDesk). What a command shows, and how it ends, does not depend on which.
type desk interface {
	Sagas(ctx context.Context, f pgengine.Filter) ([]pgengine.Status, error)
	Saga(ctx context.Context, id string) (pgengine.Status, error)
	// End waits for the end of a saga. One that is stuck does not end by itself: it is returned as it stands.
	End(ctx context.Context, id string) (pgengine.Status, error)
	History(ctx context.Context, id string) (pgengine.Status, []pgengine.Entry, error)
	// Workers names the live workers that have the saga's code. It is not nil.
	Workers(ctx context.Context, s pgengine.Status) ([]string, error)
	graphs
	Versions(ctx context.Context, name string) ([]pgengine.VersionStatus, error)

	Schedules(ctx context.Context) ([]pgengine.ScheduleStatus, error)
	Schedule(ctx context.Context, name string) (pgengine.ScheduleStatus, error)

	Outbox(ctx context.Context) (outbox.Status, error)
	OutboxLetters(ctx context.Context, f outbox.DeadFilter) ([]outbox.Dead, error)
	OutboxLetter(ctx context.Context, id int64) (outbox.Dead, error)

	Inbox(ctx context.Context) (inbox.State, error)
	InboxLetters(ctx context.Context, f inbox.DeadFilter) ([]inbox.DeadLetter, error) // without payloads
	InboxLetter(ctx context.Context, id int64) (inbox.DeadLetter, error)
	// InboxDo redrives or drops letters, and gives the ids of those that were there for it.
	InboxDo(ctx context.Context, verb string, ids []int64, by pgengine.By) ([]int64, error)

	// Do does something to what has that id, in one transaction.
	Do(ctx context.Context, id string, o order) (done, error)
}

// graphs is who knows definitions. version 0: the highest that a live worker has, else the highest there is.
type graphs interface {
	Graph(ctx context.Context, name string, version int) (pgengine.Graph, int, error)
}

// What an order is about; the console's API has the same words in its paths.
const (
	aSaga        = "sagas"
	aSchedule    = "schedules"
	aDeadMessage = "outbox"
)

// order is what somebody asks for. Its fields are those of the console's actions.
type order struct {
	on, verb string // aSaga and so on; cancel, retry and so on

	by      pgengine.By
	step    string
	steps   []string // of a restart: further ones
	outcome pgengine.Outcome
	result  json.RawMessage
	signal  string
	key     string
	payload json.RawMessage
}

// done is what came of an order.
type done struct {
	pgengine.Started                 // of a restart
	Redriven         outbox.Redriven // of a message
}

// withDesk runs f where this command is to ask.
func (a *app) withDesk(ctx context.Context, f func(desk) error) error {
	if a.remote() {
		return f(a.newRemoteDesk())
	}
	return a.withEngine(ctx, func(e *pgengine.Engine) error { return f(directDesk{e}) })
}

// withResolver is withDesk, with a desk on the database that checks results by the program's own code.
func (a *app) withResolver(ctx context.Context, f func(desk) error) error {
	if a.remote() {
		return f(a.newRemoteDesk())
	}
	if _, err := a.poolConfig(); err != nil {
		return err
	}
	return a.withDefinitions(ctx, func(e *pgengine.Engine) error { return f(directDesk{e}) })
}

// withGraphs runs f with who knows definitions: a console or, with a database or without, this program.
func (a *app) withGraphs(ctx context.Context, f func(graphs) error) error {
	if a.remote() {
		return f(a.newRemoteDesk())
	}
	return a.withDefinitions(ctx, func(e *pgengine.Engine) error { return f(e) })
}

// remote says whether a console is to be asked: one that was named, unless the database was in a stronger way.
func (a *app) remote() bool {
	strength := func(flag string) int { // of where a setting comes from
		switch a.cfg.origins[flag] {
		case "":
			return 0
		case "--" + flag:
			return 2
		}
		return 1
	}
	return a.cfg.server != "" && strength("server") >= strength("database-url")
}

// pause is how long to wait before asking again for what will come.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
