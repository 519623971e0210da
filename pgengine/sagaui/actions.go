package sagaui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// subject is what an action is done to: one of these.
type subject struct {
	saga     *Saga
	schedule *pgengine.ScheduleStatus
	outbox   *outbox.Dead
	inbox    *inbox.DeadLetter
}

func (s *subject) status() *pgengine.Status {
	if s.saga == nil {
		return nil
	}
	return &s.saga.Status
}

// seen names how it stands.
func (s *subject) seen() string {
	switch {
	case s.saga != nil:
		return s.saga.Seen
	case s.schedule != nil:
		return digest(fmt.Sprint("schedule", s.schedule.Cron, s.schedule.Zone, s.schedule.Saga, s.schedule.Paused))
	case s.outbox != nil:
		return digest(fmt.Sprint("outbox", s.outbox.ID, s.outbox.Attempts, s.outbox.DiedAt.UnixMicro()))
	}
	return digest(fmt.Sprint("inbox", s.inbox.ID, s.inbox.Redrives, s.inbox.Redriving, s.inbox.DiedAt.UnixMicro()))
}

// subjects are the kinds of subject: where they are found, and what is above them.
var subjects = []subjectKind{
	{on: "saga", html: "/sagas/{id}", api: "/sagas/{id}", load: loadSaga},
	{on: "schedule", html: "/schedules/{id}", api: "/schedules/{id}", load: loadSchedule},
	{on: "outbox", html: "/outbox/{id}", api: "/outbox/{id}", load: loadOutboxLetter},
	{on: "inbox", html: "/inbox/{id}", api: "/inbox/{id}", load: loadInboxLetter},
}

type subjectKind struct {
	on, html, api string
	load          func(*console, *http.Request) (*subject, error)
}

func loadSaga(c *console, r *http.Request) (*subject, error) {
	s, err := c.look(r.Context(), r.PathValue("id"))
	return &subject{saga: s}, err
}

func loadSchedule(c *console, r *http.Request) (*subject, error) {
	s, err := c.engine.GetSchedule(r.Context(), r.PathValue("id"))
	return &subject{schedule: &s}, err
}

func loadOutboxLetter(c *console, r *http.Request) (*subject, error) {
	id, err := number(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	d, err := outbox.DeadLetter(c.reading(r), c.engine.Pool(), id)
	return &subject{outbox: &d}, err
}

// reading is the context to read a letter in: only for whoever may see payloads are they decoded.
func (c *console) reading(r *http.Request) context.Context {
	if of := c.engine.Codec(); of != nil && c.may(r, Payloads, nil) == nil {
		return codec.With(r.Context(), of, "")
	}
	return r.Context()
}

func loadInboxLetter(c *console, r *http.Request) (*subject, error) {
	id, err := number(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	d, err := inbox.Dead(c.reading(r), c.engine.Pool(), id)
	return &subject{inbox: &d}, err
}

// Ask is what an action is told, in JSON.
type Ask struct {
	Reason  string          `json:"reason"`
	Seen    string          `json:"seen,omitempty"` // as the answer before said; "": however things stand; see also Whatever
	Step    string          `json:"step,omitempty"`
	Steps   []string        `json:"steps,omitempty"` // of a restart: further ones to begin with
	Outcome string          `json:"outcome,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Signal  string          `json:"signal,omitempty"`
	Key     string          `json:"key,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// action is something to do.
type action struct {
	name, on string
	title    string   // of the button
	did      string   // what the page says afterwards
	danger   bool     // it can't be taken back
	fields   []string // of the form, beside the reason

	// whyNot says why it can't be done as things stand; "": it can.
	whyNot func(*subject) string
	// foretell says what it will do.
	foretell func(*subject) []string
	steps    func(*Saga) []string // that can be chosen, of a field step
	// do does it, and tells what it has made.
	do func(context.Context, *console, pgx.Tx, *subject, Ask, pgengine.By, *Done) error
}

// actions is the one table of what can be done.
var actions = []action{
	{
		name: "retry", on: "saga", title: "Try again", did: "Asked the saga to try again.",
		whyNot: func(s *subject) string {
			if s.saga.State != pgengine.Stuck {
				return "It is not stuck."
			}
			return ""
		},
		foretell: func(s *subject) []string { return s.saga.foretellRetry() },
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, f Ask, by pgengine.By, _ *Done) error {
			if f.Step != "" {
				return c.engine.RetryStep(ctx, tx, s.saga.ID, f.Step, by)
			}
			return c.engine.Retry(ctx, tx, s.saga.ID, by)
		},
	},
	{
		name: "resolve", on: "saga", title: "Resolve a step", did: "Told the saga what has become of the step.", danger: true, fields: []string{"step", "outcome", "result"}, steps: (*Saga).askedSteps,
		whyNot: func(s *subject) string {
			if len(s.saga.asked()) == 0 {
				return "No step waits for an operator."
			}
			return ""
		},
		foretell: func(s *subject) []string { return s.saga.foretellResolve() },
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, f Ask, by pgengine.By, _ *Done) error {
			return c.engine.Resolve(ctx, tx, s.saga.ID, f.Step, pgengine.Resolution{Outcome: pgengine.Outcome(f.Outcome), Result: f.Result}, by)
		},
	},
	{
		name: "signal", on: "saga", title: "Send a signal", did: "Sent the signal.", fields: []string{"signal", "payload", "key"},
		whyNot: func(s *subject) string {
			switch {
			case s.saga.State.Ended():
				return "It has ended."
			case s.saga.State == pgengine.Failing || s.saga.State == pgengine.Compensating:
				return "It turns back: nothing of it awaits a signal any more."
			case len(s.saga.signals()) == 0:
				return "None of its steps awaits a signal."
			}
			return ""
		},
		foretell: func(s *subject) []string { return s.saga.foretellSignal() },
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, f Ask, by pgengine.By, _ *Done) error {
			return c.engine.SignalJSON(ctx, tx, pgengine.ID(s.saga.ID), f.Signal, f.Payload, &pgengine.SignalOptions{Key: f.Key, By: by})
		},
	},
	{
		name: "cancel", on: "saga", title: "Cancel", did: "Asked the saga to turn back.", danger: true,
		whyNot: func(s *subject) string {
			switch pivot := s.saga.passed(); {
			case s.saga.State != pgengine.Running:
				return "It is " + string(s.saga.State) + "."
			case pivot != "":
				return "It is past its pivot " + pivot + ": it only goes forward."
			}
			return ""
		},
		foretell: func(s *subject) []string { return s.saga.foretellCancel() },
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, f Ask, by pgengine.By, _ *Done) error {
			return c.engine.Cancel(ctx, tx, s.saga.ID, by)
		},
	},
	{
		name: "pause", on: "saga", title: "Pause", did: "Asked the saga to pause.",
		whyNot: func(s *subject) string {
			switch {
			case s.saga.State.Ended():
				return "It has ended."
			case s.saga.PausedAt != nil:
				return "It is paused."
			}
			return ""
		},
		foretell: func(*subject) []string {
			return []string{"What has begun ends, and nothing else begins until it is resumed: neither steps nor undos nor attempts.",
				"Time goes on: a deadline that passes turns it back. Its children are not paused."}
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			return c.engine.Pause(ctx, tx, s.saga.ID, by)
		},
	},
	{
		name: "resume", on: "saga", title: "Resume", did: "Asked the saga to go on.",
		whyNot: func(s *subject) string {
			if s.saga.PausedAt == nil || s.saga.State.Ended() {
				return "It is not paused."
			}
			return ""
		},
		foretell: func(*subject) []string {
			return []string{"It goes on where it stands. Timers that fell due, signals and ends of children that came meanwhile are seen to now."}
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			return c.engine.Resume(ctx, tx, s.saga.ID, by)
		},
	},
	{
		name: "skip", on: "saga", title: "Skip a step", did: "Asked the saga to go on past the step.", danger: true, fields: []string{"step"}, steps: (*Saga).skippable,
		whyNot: func(s *subject) string {
			if len(s.saga.skippable()) == 0 {
				return "No step waits that could be skipped."
			}
			return ""
		},
		foretell: func(s *subject) (lines []string) {
			for _, name := range s.saga.skippable() {
				if undo := s.saga.latest(name, pgengine.Undo); undo != nil && undo.EndedAt == nil {
					lines = append(lines, name+": its undo is left out, and it stays as it is; what comes before it is undone next.")
				} else {
					lines = append(lines, name+": the saga goes on without it, if no later step counts on its result.")
				}
			}
			return lines
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, f Ask, by pgengine.By, _ *Done) error {
			return c.engine.Skip(ctx, tx, s.saga.ID, f.Step, by)
		},
	},
	{
		name: "abandon", on: "saga", title: "Abandon", did: "Asked the saga to end without undoing.", danger: true,
		whyNot: func(s *subject) string {
			switch pivot := s.saga.passed(); {
			case s.saga.State.Ended():
				return "It has ended."
			case pivot != "":
				return "It is past its pivot " + pivot + ": it only goes forward."
			}
			return ""
		},
		foretell: func(s *subject) []string {
			lines := []string{"Steps that have begun end first; children go on by themselves. Nothing else is begun, and nothing is undone."}
			for _, group := range s.saga.toUndo() {
				lines = append(lines, "Not undone: "+strings.Join(group, ", ")+".")
			}
			return append(lines, "It ends compensated, with the note that nothing was undone.")
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			return c.engine.Abandon(ctx, tx, s.saga.ID, by)
		},
	},
	{
		name: "restart", on: "saga", title: "Restart from a step", did: "Started a new saga that takes over from this one.", danger: true, fields: []string{"step"}, steps: (*Saga).names,
		whyNot: func(s *subject) string {
			switch {
			case !s.saga.State.Ended():
				return "It has not ended."
			case s.saga.RestartedAs != "":
				return "It was restarted as " + s.saga.RestartedAs + "."
			case s.saga.graph == nil:
				return "Its definition is not registered."
			}
			return ""
		},
		foretell: func(*subject) []string {
			return []string{"A new saga over the same input begins. The step that you choose, and what comes after it, run anew.",
				"Of all other steps it takes over what became of them; if it turns back, it undoes them.",
				"What this saga did at and after that step, and has not undone, stays, and is done again."}
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, f Ask, by pgengine.By, done *Done) error {
			made, err := c.engine.Restart(ctx, tx, s.saga.ID, append([]string{f.Step}, f.Steps...), by)
			done.Saga, done.Version, done.Existed = made.ID, made.Version, made.Existed
			return err
		},
	},
	{
		name: "pause", on: "schedule", title: "Pause", did: "The schedule is paused.",
		whyNot: func(s *subject) string {
			if s.schedule.Paused != nil {
				return "It is paused."
			}
			return ""
		},
		foretell: func(*subject) []string {
			return []string{"It starts nothing until it is resumed. Sagas that it has started go on."}
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			return c.engine.PauseSchedule(ctx, tx, s.schedule.Name, by)
		},
	},
	{
		name: "resume", on: "schedule", title: "Resume", did: "The schedule goes on.",
		whyNot: func(s *subject) string {
			if s.schedule.Paused == nil {
				return "It is not paused."
			}
			return ""
		},
		foretell: func(*subject) []string {
			return []string{"It goes on with the slots that are yet to come: those of the pause were not missed."}
		},
		do: func(ctx context.Context, c *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			return c.engine.ResumeSchedule(ctx, tx, s.schedule.Name, by)
		},
	},
	{
		name: "redrive", on: "outbox", title: "Redrive", did: "The message has another chance.",
		whyNot: func(*subject) string { return "" },
		foretell: func(s *subject) []string {
			lines := []string{"The message goes back to the relay, with all its attempts, under the same event id."}
			if s.outbox.Holds {
				return append(lines, "Its key has waited for it: later messages of the key follow in their order.")
			}
			return append(lines, "Its key has gone on without it: it may arrive after later messages of the key.")
		},
		do: func(ctx context.Context, _ *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, done *Done) error {
			again, err := outbox.Redrive(ctx, tx, s.outbox.ID, by)
			done.Message, done.Ordered = again.ID, again.Ordered
			return err
		},
	},
	{
		name: "drop", on: "outbox", title: "Drop", did: "The message is dropped.", danger: true,
		whyNot: func(*subject) string { return "" },
		foretell: func(s *subject) []string {
			lines := []string{"The message is forgotten: it is never published, and can't be had back."}
			if s.outbox.Holds {
				lines = append(lines, "Its key goes on without it.")
			}
			return lines
		},
		do: func(ctx context.Context, _ *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			return outbox.Drop(ctx, tx, s.outbox.ID, by)
		},
	},
	{
		name: "redrive", on: "inbox", title: "Redrive", did: "The message is to be handled again.",
		whyNot: func(s *subject) string {
			if s.inbox.Redriving {
				return "It is being redriven."
			}
			return ""
		},
		foretell: func(s *subject) []string {
			return []string{"A running consumer named " + s.inbox.Consumer + " handles the message again, within a second or two.",
				"It takes effect once; if it fails again, it comes back here.", "Other messages of its key do not wait for it."}
		},
		do: func(ctx context.Context, _ *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			ids, err := inbox.Redrive(ctx, tx, by, s.inbox.ID)
			return touched(ids, err)
		},
	},
	{
		name: "drop", on: "inbox", title: "Drop", did: "The message is dropped.", danger: true,
		whyNot: func(*subject) string { return "" },
		foretell: func(*subject) []string {
			return []string{"The message is forgotten. It has had no effect, and will have none, also if the broker delivers it again."}
		},
		do: func(ctx context.Context, _ *console, tx pgx.Tx, s *subject, _ Ask, by pgengine.By, _ *Done) error {
			ids, err := inbox.Drop(ctx, tx, by, s.inbox.ID)
			return touched(ids, err)
		},
	},
}

// touched: somebody else may have been quicker.
func touched(ids []int64, err error) error {
	if err == nil && len(ids) == 0 {
		return inbox.ErrNoDeadLetter
	}
	return err
}

// Actions are the names that Options.Authorize is asked for, beside [View] and [Payloads].
func Actions() []string {
	var names []string
	for _, a := range actions {
		if !slices.Contains(names, a.name) {
			names = append(names, a.name)
		}
	}
	return names
}

func actionOf(on, name string) *action {
	for i := range actions {
		if actions[i].on == on && actions[i].name == name {
			return &actions[i]
		}
	}
	return nil
}

// offer is an action that can be asked for now.
type offer struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Danger   bool     `json:"danger"`
	Foretold []string `json:"foretold"` // what it will do
	Fields   []string `json:"fields"`   // what it needs, beside a reason
}

// offers are the actions that make sense as things stand, and that are permitted.
func (c *console) offers(r *http.Request, s *subject) []offer {
	all := []offer{}
	for _, a := range actions {
		if s.is(a.on) && a.whyNot(s) == "" && c.may(r, a.name, s.status()) == nil {
			all = append(all, offer{a.name, a.title, a.danger, a.foretell(s), slices.Concat([]string{}, a.fields)})
		}
	}
	return all
}

func (s *subject) is(on string) bool {
	return on == "saga" && s.saga != nil || on == "schedule" && s.schedule != nil || on == "outbox" && s.outbox != nil || on == "inbox" && s.inbox != nil
}

// asked are the steps that wait for an operator.
func (s *Saga) asked() (all []Wait) {
	for _, w := range s.Waits {
		if w.For == "an operator" {
			all = append(all, w)
		}
	}
	return all
}

func (s *Saga) askedSteps() (names []string) {
	for _, w := range s.asked() {
		names = append(names, w.Step)
	}
	return names
}

// skippable are the steps that wait, and that the definition does not forbid to skip.
func (s *Saga) skippable() (names []string) {
	for _, w := range s.Waits {
		if s.State.Ended() || w.For == "its children" || w.For == "its time" && s.graph == nil || slices.Contains(names, w.Step) {
			continue
		}
		if w.Direction == pgengine.Do && s.graph != nil && w.For != "its time" {
			outcomes, err := s.graph.Answers(w.Step, w.Direction)
			if err != nil || !slices.Contains(outcomes, pgengine.OutcomeSkipped) {
				continue
			}
		}
		names = append(names, w.Step)
	}
	return names
}

// names are the saga's steps.
func (s *Saga) names() (names []string) {
	for _, layer := range s.plan.Layers {
		names = append(names, layer...)
	}
	return names
}

// signals are the names that steps of the saga await, those that do so now first.
func (s *Saga) signals() (names []string) {
	for _, w := range s.Waits {
		if w.Signal != "" && !slices.Contains(names, w.Signal) {
			names = append(names, w.Signal)
		}
	}
	if s.graph != nil {
		for _, g := range s.graph.Steps {
			if g.Signal != "" && !slices.Contains(names, g.Signal) {
				names = append(names, g.Signal)
			}
		}
	}
	return names
}

// toUndo are the steps that would be undone if the saga turned back now, in order; those of one group at once.
func (s *Saga) toUndo() (order [][]string) {
	for _, group := range s.plan.UndoOrder {
		var here []string
		for _, name := range group {
			do, undo := s.latest(name, pgengine.Do), s.latest(name, pgengine.Undo)
			happened := do != nil && (do.State == "done" || do.State == "failed" && do.InDoubt)
			settled := undo != nil && do != nil && undo.Generation >= do.Generation && undo.EndedAt != nil
			if happened && !settled {
				here = append(here, name)
			}
		}
		if here != nil {
			order = append(order, here)
		}
	}
	return order
}

func (s *Saga) foretellCancel() (lines []string) {
	if s.graph == nil {
		return []string{"The saga turns back. Its definition is not registered, so that nobody can say which steps that undoes."}
	}
	undone := s.toUndo()
	if undone == nil {
		lines = append(lines, "Nothing is done yet that could be undone.")
	}
	for i, group := range undone {
		if i == 0 {
			lines = append(lines, "Undone first: "+strings.Join(group, ", ")+".")
		} else {
			lines = append(lines, "Then: "+strings.Join(group, ", ")+".")
		}
	}
	for _, t := range s.Steps {
		if t.Direction == pgengine.Do && t.State == "running" {
			lines = append(lines, t.Step+" is under way: it ends first, and is then undone if it has happened and can be.")
		}
	}
	for _, n := range s.plan.NeverUndone {
		if do := s.latest(n.Step, pgengine.Do); do != nil && do.State == "done" {
			lines = append(lines, n.Step+" stays as it is: "+n.Note+".")
		}
	}
	if s.plan.Pivot != "" {
		lines = append(lines, "If it passes its pivot "+s.plan.Pivot+" before it hears of this, it goes on as it was.")
	}
	return append(lines, "Steps that end meanwhile are undone, too. It ends compensated.")
}

func (s *Saga) foretellRetry() (lines []string) {
	back := false
	for _, t := range s.Steps {
		if t.State != "stuck" {
			continue
		}
		back = back || t.Direction == pgengine.Undo
		switch {
		case t.Direction == pgengine.Undo && s.step(t.Step).ManualUndo:
			lines = append(lines, "The undo of "+t.Step+" stays an operator's: resolve it.")
		case t.Direction == pgengine.Undo:
			lines = append(lines, "The undo of "+t.Step+" is tried again, with all its attempts.")
		default:
			lines = append(lines, t.Step+" is tried again, with all its attempts.")
		}
	}
	var rest []string
	for _, group := range s.toUndo() {
		for _, name := range group {
			if t := s.latest(name, pgengine.Undo); t == nil || t.State != "stuck" {
				rest = append(rest, name)
			}
		}
	}
	if back && rest != nil {
		lines = append(lines, "If that succeeds, these are undone next: "+strings.Join(rest, ", ")+".")
	}
	return append(lines, "If the reason is not out of the way, it becomes stuck again.")
}

func (s *Saga) foretellResolve() (lines []string) {
	for _, w := range s.asked() {
		for _, o := range w.Outcomes {
			lines = append(lines, w.Step+" "+string(o)+": "+means(w, o))
		}
	}
	return append(lines, "The engine takes your word for it, and calls nothing.")
}

func means(w Wait, o pgengine.Outcome) string {
	undo := w.Direction == pgengine.Undo
	switch {
	case undo && o == pgengine.OutcomeDone:
		return "it is undone, by hand or all along; what comes before it is undone next."
	case undo:
		return "it is left as it is, not undone; what comes before it is undone next."
	case o == pgengine.OutcomeDone:
		return "it has happened, with the result that you give; the saga goes on."
	case o == pgengine.OutcomeFailed:
		return "it has not happened and will not; the saga turns back."
	}
	return "the saga goes on without it."
}

func (s *Saga) foretellSignal() (lines []string) {
	for _, name := range s.signals() {
		waiting := ""
		for _, w := range s.Waits {
			if w.Signal == name {
				waiting = w.Step
			}
		}
		if waiting != "" {
			lines = append(lines, name+": "+waiting+" awaits it now, and goes on with it at once.")
		} else {
			lines = append(lines, name+": nothing awaits it now; it is kept for the first step that does.")
		}
	}
	return lines
}
