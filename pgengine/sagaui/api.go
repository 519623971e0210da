package sagaui

import (
	_ "embed"
	"encoding/json"
	"errors"
	"mime"
	"net/http"

	"github.com/jackc/pgx/v5/pgconn"
)

// apiRoot is where the JSON is, below the prefix.
const apiRoot = "/api/v1"

//go:embed openapi.json
var openAPI []byte

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // the client has gone
}

// apiError is every answer that is no success.
type apiError struct {
	Error string `json:"error"`           // for people
	Cause string `json:"cause,omitempty"` // what the engine said, as it would to a program
}

// Done is the answer to an action, in JSON.
type Done struct {
	Action string `json:"action"`
	Did    string `json:"did"`
	// Of a restart: the saga that goes on, and whether it had been started before.
	Saga    string `json:"saga,omitempty"`
	Version int    `json:"version,omitempty"`
	Existed bool   `json:"existed,omitempty"`
	// Of a message that is published again: its number now, and whether no later one of its key has left before it.
	Message int64 `json:"message,omitempty"`
	Ordered bool  `json:"ordered,omitempty"`
}

// apiActions is what can be done to something as it stands.
type apiActions struct {
	Seen    string  `json:"seen"` // give it back with the action, and it is refused if things have moved on
	Actions []offer `json:"actions"`
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // a payload of the database is JSON: this is a mistake of ours
		code, body = http.StatusInternalServerError, []byte(`{"error": "the answer is not JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // the client has gone
}

func (c *console) json(w http.ResponseWriter, r *http.Request, p page) {
	data, err := p.load(c, r)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, data)
}

func (c *console) jsonActions(w http.ResponseWriter, r *http.Request, kind subjectKind) {
	s, err := kind.load(c, r)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, apiActions{s.seen(), c.offers(r, s)})
}

// Whatever, as what was seen, leaves it to the engine to say whether something can be done, as the command line does, which has not looked
// before.
const Whatever = "*"

// jsonAct does what JSON asks for. That it says it is JSON protects whoever is logged in by a cookie or by basic auth: a form
// of another site cannot say so.
func (c *console) jsonAct(w http.ResponseWriter, r *http.Request, kind subjectKind) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		c.fail(w, r, &refusal{code: http.StatusUnsupportedMediaType, say: "Send JSON, with Content-Type: application/json."})
		return
	}
	a, s, err := c.permitted(r, kind)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	var f Ask
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	in.DisallowUnknownFields()
	if err := in.Decode(&f); err != nil {
		c.fail(w, r, &refusal{code: http.StatusBadRequest, say: "The JSON can't be read: " + plain(clip(err.Error(), 200))})
		return
	}
	if problem := a.check(f); problem != "" {
		c.fail(w, r, &refusal{code: http.StatusUnprocessableEntity, say: problem})
		return
	}
	if f.Seen != Whatever {
		if err := a.can(s); err != nil {
			c.fail(w, r, err)
			return
		}
		if f.Seen != "" && f.Seen != s.seen() {
			c.fail(w, r, &refusal{code: http.StatusConflict, say: "Nothing was done: things have moved on since. Ask for the actions again."})
			return
		}
	}
	done, err := c.perform(r, a, s, f)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusAccepted, done)
}

// answered tells what the engine refuses, for a reason that the one who asked can read, from what went wrong.
func answered(err error) error {
	if err == nil || errors.As(err, new(*pgconn.PgError)) || errors.As(err, new(*pgconn.ConnectError)) {
		return err
	}
	return &asked{err}
}

// asked is an error of the engine's about what it was asked for.
type asked struct{ error }

func (e *asked) Unwrap() error { return e.error }
