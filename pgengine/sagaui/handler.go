package sagaui

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// What Options.Authorize is asked for, beside the names of [Actions].
const (
	View     = "view"     // to look at anything; the saga is nil for pages that show several
	Payloads = "payloads" // to see inputs, results, signals and messages
)

// Options tune the console. The zero value is one that only shows, and withholds payloads.
type Options struct {
	// Authorize permits a request to do something by returning nil: [View], [Payloads], or one of [Actions]. saga is nil if it is not
	// about one. Its error is logged, and shown to whoever asked: say what is missing, and no secret. nil: View is permitted and nothing
	// else. [AllowAll] permits everything.
	Authorize func(r *http.Request, action string, saga *pgengine.Status) error
	// Actor names who makes a request, for the record of what was done. nil: the user of its basic auth, or "console".
	Actor func(r *http.Request) string

	Prefix   string        // where it is mounted, if nobody strips that: /admin/sagas
	Title    string        // "": pgsagaz
	MaxShown int           // how many bytes of a payload or an error are shown. 0: 4096
	Refresh  time.Duration // how often a page that is open renews itself. 0: 2 s; a running saga's: a quarter of it
	Logger   *slog.Logger  // nil: the engine's
}

// AllowAll is an Options.Authorize for a console that only the right people can reach.
func AllowAll(*http.Request, string, *pgengine.Status) error { return nil }

// console is a handler under way. It is not changed once NewHandler has returned it.
type console struct {
	Options
	engine *pgengine.Engine
	mux    *http.ServeMux
}

// NewHandler makes the console of an engine. The engine needs a pool, and not the code of any saga. nil options are the
// zero value.
func NewHandler(engine *pgengine.Engine, opts *Options) http.Handler {
	c := &console{engine: engine, mux: http.NewServeMux()}
	if opts != nil {
		c.Options = *opts
	}
	if c.Logger == nil {
		c.Logger = engine.Logger()
	}
	if c.Title == "" {
		c.Title = "pgsagaz"
	}
	if c.MaxShown <= 0 {
		c.MaxShown = 4096
	}
	if c.Refresh <= 0 {
		c.Refresh = 2 * time.Second
	}
	if c.Actor == nil {
		c.Actor = basicUser
	}
	c.routes()
	// Whoever looks at this is logged in: a request that another site's page makes in his name is refused.
	var handler http.Handler = http.HandlerFunc(c.serve)
	if prefix := strings.TrimSuffix(c.Prefix, "/"); prefix != "" {
		handler = http.StripPrefix(prefix, handler)
	}
	return handler
}

func basicUser(r *http.Request) string {
	if user, _, ok := r.BasicAuth(); ok && user != "" {
		return user
	}
	return "console"
}

// routes are those of pages.go and actions.go, as pages and as JSON, and the assets.
func (c *console) routes() {
	for _, p := range pages {
		if p.html != "" {
			c.mux.HandleFunc("GET "+p.html, func(w http.ResponseWriter, r *http.Request) { c.page(w, r, p) })
		}
		c.mux.HandleFunc("GET "+apiRoot+p.api, func(w http.ResponseWriter, r *http.Request) { c.json(w, r, p) })
	}
	for _, s := range subjects {
		c.mux.HandleFunc("GET "+s.html+"/do/{action}", func(w http.ResponseWriter, r *http.Request) { c.confirm(w, r, s) })
		c.mux.HandleFunc("POST "+s.html+"/do/{action}", func(w http.ResponseWriter, r *http.Request) { c.act(w, r, s) })
		c.mux.HandleFunc("GET "+apiRoot+s.api+"/actions", func(w http.ResponseWriter, r *http.Request) { c.jsonActions(w, r, s) })
		c.mux.HandleFunc("POST "+apiRoot+s.api+"/actions/{action}", func(w http.ResponseWriter, r *http.Request) { c.jsonAct(w, r, s) })
	}
	c.mux.HandleFunc("GET "+apiRoot+"/openapi.json", serveOpenAPI)
	c.mux.HandleFunc("GET /assets/{name}", serveAsset)
}

// policy lets a page load what this handler serves, send forms to it, and nothing else; and nobody may frame it.
const policy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

func (c *console) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if r.URL.Path == "" { // mounted without a slash at its end: relative links would miss
		h.Set("Location", lastSegment(r.RequestURI)+"/")
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		c.fail(w, r, &refusal{code: http.StatusForbidden, say: "This request came from another site's page, and nothing was done."})
		return
	}
	handler, pattern := c.mux.Handler(r)
	if pattern == "" { // nothing there, or not by this method
		status := recorder{header: http.Header{}}
		handler.ServeHTTP(&status, r)
		if status.code == http.StatusMethodNotAllowed {
			h.Set("Allow", status.header.Get("Allow"))
			c.fail(w, r, &refusal{code: status.code, say: "This address does not take " + r.Method + "."})
			return
		}
		c.fail(w, r, &refusal{code: http.StatusNotFound, say: "There is no such page."})
		return
	}
	if !strings.HasPrefix(r.URL.Path, "/assets/") {
		if err := c.permit(r, View, nil); err != nil {
			c.fail(w, r, err)
			return
		}
	}
	c.mux.ServeHTTP(w, r)
}

// recorder keeps what the mux would have answered.
type recorder struct {
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }
func (r *recorder) WriteHeader(code int)        { r.code = code }

// lastSegment is that of the path that was asked for.
func lastSegment(uri string) string {
	path, _, _ := strings.Cut(uri, "?")
	return path[strings.LastIndex(path, "/")+1:]
}

// root leads from the page that was asked for to the console's first one, whatever the prefix.
func root(r *http.Request) string {
	return strings.Repeat("../", strings.Count(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/"))
}

// refusal is an error that a person is told of.
type refusal struct {
	code  int
	say   string
	cause string // what the engine said; "": it was not asked, or it is for the log alone
}

func (e *refusal) Error() string { return e.say }

// permit asks whether a request may do what it has come for, and logs it if it may not.
func (c *console) permit(r *http.Request, action string, saga *pgengine.Status) error {
	err := c.may(r, action, saga)
	if err != nil {
		c.Logger.WarnContext(r.Context(), "console: refused", "action", action, "actor", c.Actor(r), "path", r.URL.Path, "error", err)
	}
	return err
}

// may asks Authorize.
func (c *console) may(r *http.Request, action string, saga *pgengine.Status) error {
	if c.Authorize == nil {
		if action == View {
			return nil
		}
		return &refusal{code: http.StatusForbidden, say: "This console only shows: it was set up without Options.Authorize."}
	}
	if err := c.Authorize(r, action, saga); err != nil {
		return &refusal{code: http.StatusForbidden, say: "You may not do this (" + action + "): " + err.Error()}
	}
	return nil
}

// told is how an error is answered: its code, and what a person and a program are told.
func (c *console) told(ctx context.Context, err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	r := c.explain(ctx, err)
	if r.code < http.StatusInternalServerError {
		r.cause = plain(clip(err.Error(), 2000))
	}
	return r
}

func (c *console) explain(ctx context.Context, err error) *refusal {
	switch {
	case errors.Is(err, pgengine.ErrNotFound):
		return &refusal{code: http.StatusNotFound, say: "There is no such saga: it was never started, or has left the archive."}
	case errors.Is(err, pgengine.ErrUnknownSaga):
		return &refusal{code: http.StatusNotFound, say: "There is no such definition."}
	case errors.Is(err, outbox.ErrNotDead), errors.Is(err, inbox.ErrNoDeadLetter):
		return &refusal{code: http.StatusNotFound, say: "There is no such dead letter: it was redriven, or dropped."}
	case errors.Is(err, pgengine.ErrEnded):
		return &refusal{code: http.StatusConflict, say: "The saga has ended meanwhile: there is nothing left to do."}
	case errors.Is(err, pgengine.ErrNotParked):
		return &refusal{code: http.StatusConflict, say: "The step does not wait for an operator any more."}
	case errors.Is(err, pgengine.ErrNoRestart):
		return &refusal{code: http.StatusConflict, say: "Refused: " + plain(clip(err.Error(), 500))}
	case errors.Is(err, pgengine.ErrNoSchedule):
		return &refusal{code: http.StatusNotFound, say: "There is no such schedule."}
	case errors.Is(err, pgengine.ErrNoSignal):
		return &refusal{code: http.StatusConflict, say: "No step of the saga awaits a signal of that name."}
	case errors.Is(err, pgengine.ErrTooLarge):
		return &refusal{code: http.StatusRequestEntityTooLarge, say: "The payload is too large."}
	case errors.As(err, new(*asked)):
		return &refusal{code: http.StatusUnprocessableEntity, say: "Refused: " + plain(clip(err.Error(), 500))}
	case ctx.Err() != nil:
		return &refusal{code: http.StatusServiceUnavailable, say: "The request was given up."}
	}
	c.Logger.ErrorContext(ctx, "console", "error", err)
	return &refusal{code: http.StatusInternalServerError, say: "Something went wrong; the console's log has the reason."}
}

// fail answers with an error, as a page or as JSON.
func (c *console) fail(w http.ResponseWriter, r *http.Request, err error) {
	told := c.told(r.Context(), err)
	if strings.HasPrefix(r.URL.Path, apiRoot) {
		writeJSON(w, told.code, apiError{told.say, told.cause})
		return
	}
	c.render(w, r, told.code, "error", fmt.Sprint(told.code, " ", http.StatusText(told.code)), 0, told)
}
