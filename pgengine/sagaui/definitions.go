package sagaui

import (
	"net/http"
	"strconv"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Definitions are all versions that are registered, or still run.
type Definitions struct {
	Versions []pgengine.VersionStatus `json:"versions"`
}

func (c *console) definitions(r *http.Request) (any, error) {
	versions, err := c.engine.Versions(r.Context(), "")
	if versions == nil {
		versions = []pgengine.VersionStatus{}
	}
	return Definitions{versions}, err
}

// Definition is one version, with all that can be said of it without running it.
type Definition struct {
	Name    string         `json:"name"`
	Version int            `json:"version"`
	Timeout time.Duration  `json:"timeout,omitempty"` // of the whole saga, in nanoseconds
	Graph   pgengine.Graph `json:"graph"`
	Plan    pgengine.Plan  `json:"plan"`
	Mermaid string         `json:"mermaid"`

	Drawing *drawing                 `json:"-"`
	Status  []pgengine.VersionStatus `json:"-"` // of all its versions
}

func (d Definition) title() string { return d.Name + "/" + strconv.Itoa(d.Version) }

// Ways are the rows of the fault matrix that can happen.
func (d Definition) Ways() (rows []pgengine.Fault) {
	for _, f := range d.Plan.Faults {
		if f.Cannot == "" {
			rows = append(rows, f)
		}
	}
	return rows
}

func (c *console) definition(r *http.Request) (any, error) {
	name := r.PathValue("name")
	version, err := strconv.Atoi(r.PathValue("version"))
	if err != nil || version < 1 || version > 1<<30 {
		return nil, &refusal{http.StatusNotFound, "A version is a number above 0."}
	}
	g, found, err := c.engine.Graph(r.Context(), name, version)
	if err != nil {
		return nil, err
	}
	d := Definition{Name: name, Version: found, Timeout: g.Timeout, Graph: g, Mermaid: g.Mermaid()}
	if d.Plan, err = g.Outline(); err != nil {
		return nil, err
	}
	d.Plan.Name, d.Plan.Version = name, found
	if d.Status, err = c.engine.Versions(r.Context(), name); err != nil {
		return nil, err
	}
	d.Drawing = draw(g, d.Plan, nil)
	return d, nil
}
