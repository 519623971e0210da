package sagaui

import (
	"cmp"
	"context"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// How many rows are looked at for a page of the list. A search for words reads steps, too.
const (
	lookAt      = 10_000
	lookAtOpen  = 5_000 // of those that have not ended, each of which is looked up
	lookAtWords = 2_000
	perPage     = 50
)

// query is what the list is asked for. It is the page's URL, and the URL is it.
type query struct {
	States   []pgengine.State
	Name     string
	Version  int
	Tag, Key string
	Text     string // somewhere in an error, or in the reason of a cancel
	Older    time.Duration
	Younger  time.Duration
	After    string
	Limit    int
	Archived bool
}

// Head is a saga as lists have it.
type Head struct {
	pgengine.Status
	StuckAt string `json:"stuck_at,omitempty"` // the step that waits for an operator, and its error
}

// Why says what somebody who runs down a list has to know: why it is stuck, or why it turned back.
func (h Head) Why() string {
	switch {
	case h.StuckAt != "":
		return h.StuckAt
	case turned(h.Cause):
		return h.Cause.String()
	}
	return ""
}

// turned: a saga that is past its pivot has a cause for being stuck, and does not turn back.
func turned(c *pgengine.Cause) bool {
	return c != nil && (c.Kind != pgengine.CauseStep || c.Step != "")
}

// List is a page of sagas, the last started first.
type List struct {
	Sagas []Head `json:"sagas"`
	// Next is the id to ask on after. There may be nothing; and with few sagas or none before it, there may be more than was looked
	// at for this page.
	Next string `json:"next,omitempty"`
	// Looked says that the page ends where the search stopped looking, and not because it is full.
	Looked bool `json:"looked,omitempty"`

	Query    query                   `json:"-"`
	Names    []string                `json:"-"`
	More     template.URL            `json:"-"` // the query of the next page
	First    template.URL            `json:"-"` // of the first; "": this is it
	Chips    []chip                  `json:"-"`
	Selected map[pgengine.State]bool `json:"-"`
}

// chip is a choice that narrows the list to a state, or widens it again.
type chip struct {
	State pgengine.State
	Query template.URL
	On    bool
}

func (c *console) list(r *http.Request) (any, error) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	var l *List
	err = c.reads(r.Context(), func(tx pgx.Tx) error {
		if l, err = c.find(r.Context(), tx, q); err != nil {
			return err
		}
		rows, err := tx.Query(r.Context(), sql.UINames)
		if err != nil {
			return err
		}
		l.Names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, err
	}
	l.links()
	return l, nil
}

// links are the pages beside this one.
func (l *List) links() {
	q := l.Query
	if l.Next != "" {
		more := q
		more.After = l.Next
		l.More = more.encode()
	}
	if q.After != "" {
		first := q
		first.After = ""
		l.First = first.encode()
	}
	for _, s := range states {
		toggled := q
		toggled.After = ""
		on := slices.Contains(q.States, s)
		if on {
			toggled.States = slices.DeleteFunc(slices.Clone(q.States), func(o pgengine.State) bool { return o == s })
		} else {
			toggled.States = append(slices.Clone(q.States), s)
		}
		l.Chips = append(l.Chips, chip{s, toggled.encode(), on})
	}
}

// filters are the names that parseQuery knows.
var filters = []string{"state", "name", "version", "tag", "key", "text", "older", "younger", "after", "limit", "archived"}

// parseQuery reads the list's URL. What it does not know it refuses by name: a filter that is dropped shows too much.
func parseQuery(v url.Values) (q query, err error) {
	bad := func(name, why string) (query, error) {
		return q, &refusal{code: http.StatusBadRequest, say: name + "=" + plain(clip(v.Get(name), 80)) + ": " + why}
	}
	for name, values := range v {
		for _, value := range values {
			if value == "" && slices.Contains(filters, name) { // of a form whose field was left empty
				continue
			}
			var problem error
			switch name {
			case "did": // of the page before
			case "state":
				for _, s := range strings.Split(value, ",") {
					if !slices.Contains(states, pgengine.State(s)) {
						return bad(name, "is no state of a saga")
					}
					if !slices.Contains(q.States, pgengine.State(s)) {
						q.States = append(q.States, pgengine.State(s))
					}
				}
			case "name":
				q.Name = value
			case "version":
				q.Version, problem = strconv.Atoi(value)
			case "tag":
				q.Tag = value
			case "key":
				q.Key = value
			case "text":
				q.Text = value
			case "older":
				q.Older, problem = time.ParseDuration(value)
			case "younger":
				q.Younger, problem = time.ParseDuration(value)
			case "after":
				var id uuid.UUID
				id, problem = uuid.Parse(value)
				q.After = id.String()
			case "limit":
				q.Limit, problem = strconv.Atoi(value)
			case "archived":
				q.Archived, problem = strconv.ParseBool(value)
			default:
				return bad(name, "there is no such filter")
			}
			if problem != nil || strings.ContainsRune(value, 0) {
				return bad(name, "can't be read")
			}
		}
	}
	slices.SortFunc(q.States, func(a, b pgengine.State) int { return cmp.Compare(slices.Index(states, a), slices.Index(states, b)) })
	switch {
	case q.Limit < 0 || q.Limit > 500:
		return bad("limit", "is not between 1 and 500")
	case q.Version < 0:
		return bad("version", "is negative")
	case q.Older < 0:
		return bad("older", "is negative")
	case q.Younger < 0:
		return bad("younger", "is negative")
	}
	return q, nil
}

// encode writes what parseQuery reads.
func (q query) encode() template.URL {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" && value != "0s" && value != "false" {
			v.Set(name, value)
		}
	}
	var words []string
	for _, s := range q.States {
		words = append(words, string(s))
	}
	set("state", strings.Join(words, ","))
	set("name", q.Name)
	set("version", strconv.Itoa(q.Version))
	set("tag", q.Tag)
	set("key", q.Key)
	set("text", q.Text)
	set("older", q.Older.String())
	set("younger", q.Younger.String())
	set("after", q.After)
	set("limit", strconv.Itoa(q.Limit))
	set("archived", strconv.FormatBool(q.Archived))
	return template.URL(v.Encode()) // escaped as it has to be
}

// statement chooses how the sagas are found, and with what.
func (q query) statement(now time.Time) (string, []any) {
	var names []string
	open, stuck := len(q.States) > 0, len(q.States) > 0
	for _, s := range q.States {
		names = append(names, string(s))
		open = open && !s.Ended()
		stuck = stuck && s == pgengine.Stuck
	}
	window := lookAt
	if open {
		window = lookAtOpen
	}
	var like *string
	if q.Text != "" {
		window = lookAtWords
		pattern := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(q.Text) + "%"
		like = &pattern
	}
	ago := func(d time.Duration) *time.Time {
		if d <= 0 {
			return nil
		}
		t := now.Add(-d)
		return &t
	}
	args := []any{names, given(q.Name), given(q.Tag), given(q.Key), like, given(q.After), q.Limit, window, ago(q.Older), ago(q.Younger), given(q.Version)}
	switch {
	case q.Archived:
		return sql.UISagaArchived, args
	case open:
		return sql.UISagaOpen, append(args, stuck)
	}
	return sql.UISagaList, args
}

// given is null for what was not asked for.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func (c *console) find(ctx context.Context, tx pgx.Tx, q query) (*List, error) {
	q.Limit = cmp.Or(q.Limit, perPage)
	statement, args := q.statement(time.Now())
	// A plan for any arguments would have to read the table for those that are null.
	rows, err := tx.Query(ctx, statement, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
	if err != nil {
		return nil, err
	}
	l := &List{Sagas: []Head{}, Query: q}
	var edge *string
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (none struct{}, err error) {
		var id, name, state, key *string
		var version *int
		var created *time.Time
		s := Head{Status: pgengine.Status{Archived: q.Archived}}
		if err := row.Scan(&edge, &id, &name, &version, &state, &key, &s.Tags, &s.Cause, &created, &s.Deadline, &s.EndedAt, &s.PausedAt, &s.StuckAt); err != nil || id == nil {
			return none, err
		}
		s.ID, s.Name, s.Version, s.State, s.Key, s.CreatedAt = *id, *name, *version, pgengine.State(*state), *key, *created
		l.Sagas = append(l.Sagas, s)
		return none, nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(l.Sagas) == q.Limit:
		l.Next = l.Sagas[q.Limit-1].ID
	case edge != nil:
		l.Next, l.Looked = *edge, true
	}
	if c.limitGiven(q) {
		return l, nil
	}
	l.Query.Limit = 0
	return l, nil
}

// limitGiven: only a limit that is not the usual one belongs into the URL.
func (c *console) limitGiven(q query) bool { return q.Limit != perPage }
