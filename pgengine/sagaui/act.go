package sagaui

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// maxBody bounds what a form or a JSON may send: a payload at its largest, and what is around it.
const maxBody = 2 << 20

// tokenCookie holds what a form's token must equal. It is set for the path of the form alone.
const tokenCookie = "pgsagaz_console"

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// confirmation is the page before an action.
type confirmation struct {
	Action   *action
	Title    string
	On       string // what it is done to, in words
	Foretold []string
	Problem  string // of a form that was sent
	Token    string
	Seen     string
	Back     string // leads to the subject, from two levels above the form
	Form     Ask
	Steps    []string // one of which it asks for
	Asked    []Wait
	Signals  []string
}

// Outcomes are what may be said of any of the steps that wait.
func (p confirmation) Outcomes() (all []pgengine.Outcome) {
	for _, o := range []pgengine.Outcome{pgengine.OutcomeDone, pgengine.OutcomeFailed, pgengine.OutcomeSkipped} {
		for _, w := range p.Asked {
			for _, one := range w.Outcomes {
				if one == o {
					all = append(all, o)
				}
			}
		}
	}
	return compact(all)
}

// Danger says that it can't be taken back.
func (p confirmation) Danger() bool { return p.Action.danger }

// Needs says whether the action asks for a field.
func (p confirmation) Needs(field string) bool { return slices.Contains(p.Action.fields, field) }

func compact[T comparable](all []T) (distinct []T) {
	seen := map[T]bool{}
	for _, v := range all {
		if !seen[v] {
			seen[v] = true
			distinct = append(distinct, v)
		}
	}
	return distinct
}

// confirm says what an action will do, and asks for a reason.
func (c *console) confirm(w http.ResponseWriter, r *http.Request, kind subjectKind) {
	a, s, err := c.prepare(r, kind)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	c.ask(w, r, http.StatusOK, a, s, Ask{Step: q.Get("step"), Outcome: q.Get("outcome"), Signal: q.Get("signal")}, "")
}

// prepare finds the action and its subject, and whether the one may and can be done to the other.
func (c *console) prepare(r *http.Request, kind subjectKind) (*action, *subject, error) {
	a, s, err := c.permitted(r, kind)
	if err == nil {
		err = a.can(s)
	}
	return a, s, err
}

// can says why an action can't be done as things stand.
func (a *action) can(s *subject) error {
	if why := a.whyNot(s); why != "" {
		return &refusal{code: http.StatusConflict, say: "Nothing was done. " + why}
	}
	return nil
}

// permitted finds the action and its subject, and whether the one may be done to the other by whoever asks.
func (c *console) permitted(r *http.Request, kind subjectKind) (*action, *subject, error) {
	a := actionOf(kind.on, r.PathValue("action"))
	if a == nil {
		return nil, nil, &refusal{code: http.StatusNotFound, say: "There is no such action."}
	}
	s, err := kind.load(c, r)
	if err != nil {
		return nil, nil, err
	}
	return a, s, c.permit(r, a.name, s.status())
}

// ask shows the form.
func (c *console) ask(w http.ResponseWriter, r *http.Request, code int, a *action, s *subject, f Ask, problem string) {
	p := confirmation{Action: a, Title: a.title, On: s.words(), Foretold: a.foretell(s), Problem: problem, Seen: s.seen(), Back: s.name(), Form: f}
	if s.saga != nil {
		p.Asked, p.Signals = s.saga.asked(), s.saga.signals()
	}
	if a.steps != nil {
		p.Steps = a.steps(s.saga)
	}
	if cookie, err := r.Cookie(tokenCookie); err == nil && len(cookie.Value) == 26 {
		p.Token = cookie.Value
	} else {
		p.Token = rand.Text()
		http.SetCookie(w, &http.Cookie{Name: tokenCookie, Value: p.Token, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
	}
	c.render(w, r, code, "confirm", a.title, 0, p)
}

// name is the subject's, in addresses.
func (s *subject) name() string {
	switch {
	case s.saga != nil:
		return s.saga.ID
	case s.schedule != nil:
		return escaped(s.schedule.Name)
	case s.outbox != nil:
		return strconv.FormatInt(s.outbox.ID, 10)
	}
	return strconv.FormatInt(s.inbox.ID, 10)
}

// words name the subject.
func (s *subject) words() string {
	switch {
	case s.saga != nil:
		return s.saga.Name + " " + s.saga.ID
	case s.schedule != nil:
		return "schedule " + s.schedule.Name
	case s.outbox != nil:
		return "message " + s.outbox.EventID.String() + " to " + s.outbox.Topic
	}
	return "message " + s.inbox.Message.ID + " for " + s.inbox.Consumer
}

// act does what a form asks for.
func (c *console) act(w http.ResponseWriter, r *http.Request, kind subjectKind) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		c.fail(w, r, &refusal{code: http.StatusBadRequest, say: "The form can't be read: nothing was done."})
		return
	}
	cookie, err := r.Cookie(tokenCookie)
	token := r.PostForm.Get("token")
	if err != nil || token == "" || subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(token)) != 1 {
		c.fail(w, r, &refusal{code: http.StatusForbidden, say: "This form was not made by this console, or is from another session: nothing was done. Open the page again."})
		return
	}
	a, s, err := c.prepare(r, kind)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	v := r.PostForm
	f := Ask{
		Reason: v.Get("reason"), Seen: v.Get("seen"), Step: v.Get("step"), Outcome: v.Get("outcome"), Signal: v.Get("signal"), Key: v.Get("key"),
		Result: raw(v.Get("result")), Payload: raw(v.Get("payload")),
	}
	if f.Seen == "" {
		f.Seen = "none" // a page always says what it showed
	}
	if problem := a.check(f); problem != "" {
		c.ask(w, r, http.StatusUnprocessableEntity, a, s, f, problem)
		return
	}
	if f.Seen != s.seen() {
		c.ask(w, r, http.StatusConflict, a, s, f, "Nothing was done: since you opened this page, things have moved on. Below is what the action would do now.")
		return
	}
	if _, err := c.perform(r, a, s, f); err != nil {
		told := c.told(r.Context(), err)
		if told.code == http.StatusInternalServerError {
			c.fail(w, r, told)
			return
		}
		c.ask(w, r, told.code, a, s, f, told.say)
		return
	}
	// A dead letter that was redriven or dropped has no page any more.
	back := root(r) + strings.TrimPrefix(r.URL.EscapedPath(), "/")
	back = back[:strings.LastIndex(back, "/do/")]
	if s.saga == nil {
		back = back[:strings.LastIndex(back, "/")]
	}
	w.Header().Set("Location", back+"?did="+a.name)
	w.WriteHeader(http.StatusSeeOther)
}

// raw is JSON of a form's field; nil if it was left empty.
func raw(s string) json.RawMessage {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	return json.RawMessage(s)
}

// check says what is wrong with what an action was told; "": nothing.
func (a *action) check(f Ask) string {
	switch {
	case strings.TrimSpace(f.Reason) == "":
		return "Give a reason: it is kept in the saga's record."
	case len(f.Reason) > 2000:
		return "The reason is longer than 2000 bytes."
	case slices.Contains(a.fields, "step") && f.Step == "":
		return "Say which step."
	case slices.Contains(a.fields, "outcome") && f.Outcome == "":
		return "Say what has become of the step."
	case f.Result != nil && !json.Valid(f.Result):
		return "The result is not JSON."
	case slices.Contains(a.fields, "signal") && f.Signal == "":
		return "Say which signal."
	case slices.Contains(a.fields, "payload") && !json.Valid(f.Payload):
		return "The payload is not JSON."
	}
	return ""
}

// perform does it, and keeps who did it and why.
func (c *console) perform(r *http.Request, a *action, s *subject, f Ask) (Done, error) {
	done := Done{Action: a.name, Did: a.did}
	actor := c.Actor(r)
	by := pgengine.By{Actor: actor, Reason: strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(f.Reason, "\x00", ""), "?"))}
	err := sql.InTx(r.Context(), c.engine.Pool(), func(tx pgx.Tx) error { return a.do(r.Context(), c, tx, s, f, by, &done) })
	c.Logger.InfoContext(context.WithoutCancel(r.Context()), "console: acted", "action", a.name, "on", s.words(), "actor", actor, "reason", f.Reason, "step", f.Step, "outcome", f.Outcome, "signal", f.Signal, "error", err)
	return done, answered(err)
}
