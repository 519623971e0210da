package sagaui

import (
	"net/http"
	"time"
)

// page is something to look at: the struct that load gives is shown by a template, and told as JSON.
type page struct {
	html     string // its path; "": JSON alone
	api      string // below apiRoot
	template string
	title    string
	load     func(*console, *http.Request) (any, error)
	live     bool // it renews itself
}

// pages is the one table of what can be looked at.
var pages = []page{
	{html: "/{$}", api: "/overview", template: "overview", title: "Overview", load: (*console).overview, live: true},
	{html: "/sagas", api: "/sagas", template: "list", title: "Sagas", load: (*console).list, live: true},
	{html: "/sagas/{id}", api: "/sagas/{id}", template: "saga", title: "Saga", load: (*console).saga, live: true},
	{api: "/sagas/{id}/history", title: "History", load: (*console).history},
	{html: "/definitions", api: "/definitions", template: "definitions", title: "Definitions", load: (*console).definitions},
	{html: "/definitions/{name}/{version}", api: "/definitions/{name}/{version}", template: "definition", title: "Definition", load: (*console).definition},
	{html: "/schedules", api: "/schedules", template: "schedules", title: "Schedules", load: (*console).schedules, live: true},
	{html: "/schedules/{id}", api: "/schedules/{id}", template: "schedule", title: "Schedule", load: (*console).schedule},
	{html: "/outbox", api: "/outbox", template: "outbox", title: "Outbox", load: (*console).outbox, live: true},
	{html: "/outbox/{id}", api: "/outbox/{id}", template: "outboxletter", title: "Dead letter", load: (*console).outboxLetter},
	{html: "/inbox", api: "/inbox", template: "inbox", title: "Inbox", load: (*console).inbox, live: true},
	{html: "/inbox/{id}", api: "/inbox/{id}", template: "inboxletter", title: "Dead letter", load: (*console).inboxLetter},
}

// refresh is how often a page renews itself; 0: it does not. A struct may know better than its page.
func (c *console) refresh(p page, data any) time.Duration {
	if paced, ok := data.(interface {
		pace(time.Duration) time.Duration
	}); ok {
		return paced.pace(c.Refresh)
	}
	if p.live {
		return c.Refresh
	}
	return 0
}
