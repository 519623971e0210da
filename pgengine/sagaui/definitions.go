package sagaui

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Definitions are all versions that are registered, or still run.
type Definitions struct {
	Versions []pgengine.VersionStatus `json:"versions"`
	// AtLeast: so many sagas have not ended that not all were counted.
	AtLeast bool `json:"at_least,omitempty"`
}

func (c *console) definitions(r *http.Request) (any, error) {
	var d Definitions
	err := c.reads(r.Context(), func(tx pgx.Tx) (err error) {
		d.Versions, d.AtLeast, err = c.versions(r.Context(), tx, "")
		return err
	})
	return d, err
}

// mostOfEach is how many open sagas are counted that were started first, last, and so on.
const mostOfEach = 500

// versions are those of a name, or of all, as [pgengine.Engine.Versions] gives them; atLeast: of a crowd that was not counted whole.
func (c *console) versions(ctx context.Context, tx pgx.Tx, name string) (all []pgengine.VersionStatus, atLeast bool, err error) {
	rows, err := tx.Query(ctx, sql.UIVersions, given(name), mostOfEach)
	if err != nil {
		return nil, false, err
	}
	all = []pgengine.VersionStatus{}
	var v pgengine.VersionStatus
	_, err = pgx.ForEachRow(rows, []any{&v.Name, &v.Version, &v.RegisteredAt, &v.Unfinished, &v.Stuck, &v.Workers, &atLeast}, func() error {
		all = append(all, v)
		return nil
	})
	return all, atLeast, err
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
		return nil, &refusal{code: http.StatusNotFound, say: "A version is a number above 0."}
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
	err = c.reads(r.Context(), func(tx pgx.Tx) (err error) {
		d.Status, _, err = c.versions(r.Context(), tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.Drawing = draw(g, d.Plan, nil)
	return d, nil
}
