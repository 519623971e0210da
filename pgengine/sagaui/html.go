package sagaui

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

//go:embed assets
var assetFiles embed.FS

//go:embed pages
var pageFiles embed.FS

// asset is a file that pages refer to by its contents' hash, so that browsers may keep it.
type asset struct {
	body []byte
	hash string
	kind string
}

var assets = func() map[string]asset {
	all := map[string]asset{}
	entries, err := fs.ReadDir(assetFiles, "assets")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		body, err := assetFiles.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		all[e.Name()] = asset{body, hex.EncodeToString(sum[:6]), mime.TypeByExtension(path.Ext(e.Name()))}
	}
	return all
}()

func serveAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := assets[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	if r.URL.Query().Get("v") == a.hash {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(a.body) // the browser has gone
}

// templates are one set a page: its own file on top of layout.html and parts.html.
var templates = func() map[string]*template.Template {
	all := map[string]*template.Template{}
	common := template.Must(template.New("").Funcs(functions).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	entries, err := fs.ReadDir(pageFiles, "pages")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".html")
		all[name] = template.Must(template.Must(common.Clone()).ParseFS(pageFiles, "pages/"+e.Name()))
	}
	return all
}()

var functions = template.FuncMap{
	"plain": plain,
	"clip":  func(n int, s string) string { return plain(clip(s, n)) },
	"span":  span,
	"secs":  func(s float64) string { return span(seconds(s)) },
	"since": func(t time.Time) string { return span(time.Since(t)) },
	"until": func(t time.Time) string { return span(time.Until(t)) },
	"took":  func(from, to time.Time) string { return span(to.Sub(from)) },
	"clock": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") },
	"hour":  func(t time.Time) string { return t.UTC().Format("15:04:05.000") },
	"stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"size":  size,
	"asset": func(name string) string { return "assets/" + name + "?v=" + assets[name].hash },
	"path":  escaped,
	"join":  func(words []string) string { return strings.Join(words, ", ") },
	"groups": func(of [][]string) string {
		var words []string
		for _, g := range of {
			words = append(words, strings.Join(g, ", "))
		}
		return strings.Join(words, " → ")
	},
	"count": func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return strconv.Itoa(n) + " " + what + "s"
	},
	"add": func(a, b int) int { return a + b },
	"lists": func(words []string) (all [][]string) {
		for _, w := range words {
			all = append(all, []string{w})
		}
		return all
	},
}

// layout is what every page has.
type layout struct {
	Root     string // leads to the first page
	Console  string
	Title    string
	Section  string // which entry of the navigation it belongs to
	Refresh  int64  // in ms; 0: the page stays as it is
	ReadOnly bool
	Did      string // what was done a moment ago
	Page     any
}

// Sagas is a table of sagas, for its template.
func (l layout) Sagas(label string, sagas []Head) sagaTable {
	return sagaTable{l.Root, label, sagas}
}

type sagaTable struct {
	Root, Label string
	Sagas       []Head
}

// Do are the actions of the page's subject, for their template.
func (l layout) Do(link string, actions []offer) doList { return doList{link, actions} }

type doList struct {
	Link    string
	Actions []offer
}

func (c *console) page(w http.ResponseWriter, r *http.Request, p page) {
	data, err := p.load(c, r)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	title := p.title
	if named, ok := data.(interface{ title() string }); ok {
		title = named.title()
	}
	c.render(w, r, http.StatusOK, p.template, title, c.refresh(p, data), data)
}

// render writes a page once it is whole: one that fails half-way must not look like one that is there.
func (c *console) render(w http.ResponseWriter, r *http.Request, code int, name, title string, refresh time.Duration, data any) {
	section, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var b bytes.Buffer
	err := templates[name].ExecuteTemplate(&b, "layout", layout{
		Root: root(r), Console: c.Title, Title: plain(title), Section: section, Refresh: refresh.Milliseconds(),
		ReadOnly: c.Authorize == nil, Did: did(r, section), Page: data,
	})
	if err != nil {
		c.Logger.ErrorContext(r.Context(), "console: render a page", "page", name, "error", err)
		http.Error(w, "Something went wrong; the console's log has the reason.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes()) // the browser has gone
}

// did is what the action said that led back to this page.
func did(r *http.Request, section string) string {
	name := r.URL.Query().Get("did")
	for _, a := range actions {
		if name == a.name && (a.on == section || a.on+"s" == section) {
			return a.did
		}
	}
	return ""
}

// OpenStates are those in which something may still happen.
func (l layout) OpenStates() []pgengine.State { return states[:4] }
