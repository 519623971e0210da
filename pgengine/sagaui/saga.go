package sagaui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Saga is one saga, with all there is to know of it.
type Saga struct {
	pgengine.Status
	Waits    []Wait    `json:"waits"`
	Messages []Message `json:"messages"` // of its steps, that have not gone out
	Workers  []string  `json:"workers"`  // live ones that have its code
	Withheld bool      `json:"withheld"` // inputs, results and signals, for want of permission
	Seen     string    `json:"seen"`     // names how it stands; an action that is given it is refused if that has moved on

	Rows     []stepRow `json:"-"`
	Actions  []offer   `json:"-"`
	Drawing  *drawing  `json:"-"` // nil: nobody has registered its definition
	Timeline *timeline `json:"-"`
	In, Out  text      `json:"-"`

	pretty func(json.RawMessage) text
	graph  *pgengine.Graph // nil: nobody has registered it
	plan   pgengine.Plan
}

// Wait is what a step waits for, other than a worker.
type Wait struct {
	Step      string             `json:"step"`
	Direction pgengine.Direction `json:"direction"`
	For       string             `json:"for"` // in words
	Signal    string             `json:"signal,omitempty"`
	Until     *time.Time         `json:"until,omitempty"`
	// Outcomes are what an operator may say of it, if it waits for one.
	Outcomes []pgengine.Outcome `json:"outcomes,omitempty"`
}

// Message is one that a step has written and that has not gone out.
type Message struct {
	ID        int64     `json:"id"`
	EventID   string    `json:"event_id"`
	Topic     string    `json:"topic"`
	Key       string    `json:"key,omitempty"`
	Step      string    `json:"step,omitempty"`
	State     string    `json:"state"` // stuck or dead
	Error     string    `json:"error"`
	CreatedAt time.Time `json:"created_at"`
}

// stepRow is a step's direction as the page tells of it.
type stepRow struct {
	pgengine.StepStatus
	Class    string
	Result   text
	Error    text
	Kind     string
	Attempts []attemptRow
	Hidden   int // how many more there were
}

type attemptRow struct {
	pgengine.Attempt
	Error text
}

func (s *Saga) title() string { return s.Name + " " + s.ID }

// pace: what has ended stays as it is, and what runs is watched closely.
func (s *Saga) pace(usual time.Duration) time.Duration {
	if s.State.Ended() {
		return 0
	}
	return usual / 4
}

func (c *console) saga(r *http.Request) (any, error) {
	s, err := c.look(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if err := c.permit(r, View, &s.Status); err != nil {
		return nil, err
	}
	s.Withheld = c.may(r, Payloads, &s.Status) != nil
	s.Actions = c.offers(r, &subject{saga: s})
	if s.graph != nil {
		s.Drawing = draw(*s.graph, s.plan, s)
	}
	s.Timeline = s.time(time.Now())
	if s.Withheld {
		withhold(&s.Status)
	}
	s.In, s.Out = c.pretty(s.Input), c.pretty(s.Output)
	s.Rows, s.pretty = c.rows(s), c.pretty
	return s, nil
}

// look reads a saga, its definition and whatever else the database knows of it.
func (c *console) look(ctx context.Context, id string) (*Saga, error) {
	status, err := c.engine.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &Saga{Status: status, Waits: []Wait{}, Messages: []Message{}, Workers: []string{}}
	g, _, err := c.engine.Graph(ctx, s.Name, s.Version)
	switch {
	case err == nil:
		if plan, err := g.Outline(); err == nil { // otherwise nobody has checked what is registered there
			s.graph, s.plan = &g, plan
		}
	case !errors.Is(err, pgengine.ErrUnknownSaga):
		return nil, err
	}
	workers, err := workers(ctx, c.engine.Pool())
	if err != nil {
		return nil, err
	}
	for _, w := range workers {
		if w.Live && slices.Contains(w.Definitions, fmt.Sprintf("%s/%d", s.Name, s.Version)) {
			s.Workers = append(s.Workers, w.ID)
		}
	}
	rows, err := c.engine.Pool().Query(ctx, sql.UIMessages, s.ID)
	if err != nil {
		return nil, err
	}
	if s.Messages, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Message]); err != nil {
		return nil, err
	}
	if s.Messages == nil {
		s.Messages = []Message{}
	}
	s.Waits = append(s.Waits, s.waits()...)
	s.Seen = s.seen()
	return s, nil
}

// withhold takes out what only some may see.
func withhold(s *pgengine.Status) {
	s.Input, s.Output = nil, nil
	s.Steps, s.Signals, s.Audit = slices.Clone(s.Steps), slices.Clone(s.Signals), slices.Clone(s.Audit)
	for i := range s.Audit {
		s.Audit[i].Details = nil
	}
	for i := range s.Steps {
		s.Steps[i].Result = nil
	}
	for i := range s.Signals {
		s.Signals[i].Payload = nil
	}
}

// seen names what decides what can be done with a saga: its state, whether it is past its pivot, and who waits for whom. Steps
// that come and go while it runs are left out, or nobody could ever act on one.
func (s *Saga) seen() string {
	words := []string{string(s.State), fmt.Sprint(s.PausedAt != nil)}
	if p := s.passed(); p != "" {
		words = append(words, "past "+p)
	}
	for _, t := range s.Steps {
		if t.State == "stuck" || t.State == "awaiting" {
			failed := 0 // over all retries: an operator's gives it all its attempts again
			for _, a := range s.Attempts {
				if a.Step == t.Step && a.Direction == t.Direction {
					failed++
				}
			}
			words = append(words, fmt.Sprintf("%s %s %s %d.%d", t.Step, t.Direction, t.State, t.Generation, failed))
		}
	}
	slices.Sort(words[1:])
	return digest(strings.Join(words, "\n"))
}

// step is what the definition says of one.
func (s *Saga) step(name string) (g pgengine.GraphStep) {
	if s.graph != nil {
		if i := slices.IndexFunc(s.graph.Steps, func(g pgengine.GraphStep) bool { return g.Name == name }); i >= 0 {
			return s.graph.Steps[i]
		}
	}
	return g
}

// passed is the pivot, if the saga is past it.
func (s *Saga) passed() string {
	for _, t := range s.Steps {
		if t.Direction == pgengine.Do && t.State == "done" && s.step(t.Step).Pivot {
			return t.Step
		}
	}
	return ""
}

// latest is what is known last of a step's direction; nil: nothing.
func (s *Saga) latest(step string, d pgengine.Direction) (last *pgengine.StepStatus) {
	for i := range s.Steps {
		if t := &s.Steps[i]; t.Step == step && t.Direction == d && (last == nil || t.Generation >= last.Generation) {
			last = t
		}
	}
	return last
}

// waits reads off the steps what they wait for.
func (s *Saga) waits() (all []Wait) {
	for _, t := range s.Steps {
		w := Wait{Step: t.Step, Direction: t.Direction, Until: t.NextAt}
		switch t.State {
		case "waiting":
			if t.NextAt == nil || time.Until(*t.NextAt) <= 0 {
				w.For, w.Until = "a worker", nil
			} else {
				w.For = "its next attempt"
			}
		case "awaiting":
			w.Signal = s.step(t.Step).Signal
			w.For = "the signal " + w.Signal
		case "sleeping":
			w.For = "its time"
		case "child":
			w.For = "its children"
		case "stuck":
			w.For = "an operator"
			if s.graph != nil {
				w.Outcomes, _ = s.graph.Answers(t.Step, t.Direction) // none: the worker knows better
			}
		default:
			continue
		}
		all = append(all, w)
	}
	return all
}

// Why says in a sentence what is wrong with a saga that is stuck or has turned back; "": nothing.
func (s *Saga) Why() string {
	for _, t := range s.Steps {
		if t.State != "stuck" {
			continue
		}
		switch {
		case t.Direction == pgengine.Undo && s.step(t.Step).ManualUndo:
			return "The undo of " + t.Step + " is an operator's, and waits for one."
		case t.Direction == pgengine.Undo:
			return "The undo of " + t.Step + " has given up, after " + times(t.Attempt) + "."
		}
		why := t.Step + " has given up, after " + times(t.Attempt) + "."
		if t.InDoubt {
			why += " Nobody knows whether it has happened."
		}
		return why
	}
	if s.State == pgengine.Stuck {
		return "It waits for an operator."
	}
	return ""
}

func times(n int) string {
	if n == 1 {
		return "one attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// Turned says why it turned back; "": it has not.
func (s *Saga) Turned() string {
	if !turned(s.Cause) {
		return ""
	}
	return s.Cause.String()
}

// StuckError is the error of the step that waits for an operator.
func (s *Saga) StuckError() string {
	for _, t := range s.Steps {
		if t.State == "stuck" {
			return clip(t.Error, 2000)
		}
	}
	return ""
}

// Tally counts the children of a step by their states.
func (s *Saga) Tally(step string) string {
	counts := map[pgengine.State]int{}
	for _, c := range s.Children {
		if step == "" || c.Step == step {
			counts[c.State]++
		}
	}
	var words []string
	for _, state := range append(slices.Clone(states), "waiting") {
		if counts[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", counts[state], state))
		}
	}
	return strings.Join(words, ", ")
}

// mostAttempts is how many attempts of a step are shown: of a thousand the first tell no more.
const mostAttempts = 10

// rows are the steps as the page tells of them.
func (c *console) rows(s *Saga) []stepRow {
	all := make([]stepRow, 0, len(s.Steps))
	for _, t := range s.Steps {
		row := stepRow{StepStatus: t, Class: class(t), Result: c.pretty(t.Result), Kind: s.step(t.Step).Kind}
		if string(t.Result) == "null" {
			row.Result = text{}
		}
		row.Error = c.show(t.Error)
		for _, a := range s.Attempts {
			if a.Step == t.Step && a.Direction == t.Direction && a.Generation == t.Generation {
				row.Attempts = append(row.Attempts, attemptRow{a, c.show(a.Error)})
			}
		}
		if row.Hidden = max(0, len(row.Attempts)-mostAttempts); row.Hidden > 0 {
			row.Attempts = row.Attempts[row.Hidden:]
		}
		all = append(all, row)
	}
	return all
}

// class is the colour of a step's direction.
func class(t pgengine.StepStatus) string {
	undo := t.Direction == pgengine.Undo
	switch t.State {
	case "done", "nothing":
		if undo {
			return "undone"
		}
		return "done"
	case "failed":
		return "failed"
	case "skipped":
		return "skipped"
	case "stuck":
		return "stuck"
	case "running":
		if undo {
			return "undoing"
		}
		return "running"
	}
	if undo {
		return "undoing"
	}
	return "waiting"
}

// Link leads from the saga's own page to what lies below it.
func (s *Saga) Link() string { return s.ID }

// Offers says whether an action can be asked for.
func (s *Saga) Offers(name string) bool {
	return slices.ContainsFunc(s.Actions, func(o offer) bool { return o.Name == name })
}

// Pretty shows JSON.
func (s *Saga) Pretty(raw json.RawMessage) text { return s.pretty(raw) }

// FirstChildren are those that somebody may have to look at, and then the others, as far as there is room.
func (s *Saga) FirstChildren() []pgengine.ChildStatus {
	all := slices.Clone(s.Children)
	rank := func(c pgengine.ChildStatus) int {
		switch {
		case c.State == pgengine.Stuck:
			return 0
		case c.State.Ended():
			return 2
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b pgengine.ChildStatus) int { return rank(a) - rank(b) })
	return all[:min(len(all), 200)]
}
