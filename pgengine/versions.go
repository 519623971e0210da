package pgengine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// VersionStatus says how many sagas still run on a version of a definition, and who can work them.
type VersionStatus struct {
	Name         string     `json:"name"`
	Version      int        `json:"version"`
	RegisteredAt *time.Time `json:"registered_at,omitempty"` // as it is now; nil: sagas were started before a worker registered it
	Unfinished   int        `json:"unfinished"`              // sagas that have not ended, stuck ones among them, and children that may yet be taken back
	Stuck        int        `json:"stuck"`
	Workers      int        `json:"workers"` // live ones that have its code
}

// Versions lists what is registered, or still runs, by name and version. name "": of all sagas. A version with
// unfinished sagas and no worker stands still until somebody starts one that has its code; one without either can go.
func (e *Engine) Versions(ctx context.Context, name string) ([]VersionStatus, error) {
	rows, err := e.pool.Query(ctx, sql.DefinitionList, optional(name))
	if err == nil {
		var versions []VersionStatus
		if versions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[VersionStatus]); err == nil {
			return versions, nil
		}
	}
	return nil, fmt.Errorf("list versions: %w", err)
}

// Graph gives a definition as it is registered, with its version, or else as this engine has its code. version
// 0: the highest that a live worker has, else the highest there is. Error: [ErrUnknownSaga].
//
// An engine without a pool knows its own.
func (e *Engine) Graph(ctx context.Context, name string, version int) (Graph, int, error) {
	var p Graph
	if e.pool != nil {
		var asked *int
		if version > 0 {
			asked = &version
		}
		var found int
		var seconds float64
		err := e.pool.QueryRow(ctx, sql.DefinitionPick, name, asked).Scan(&found, &p, &seconds)
		if err == nil {
			p.Timeout = time.Duration(seconds * float64(time.Second))
			return p, found, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return p, 0, fmt.Errorf("read the definition of saga %s: %w", name, err)
		}
	}
	g := e.latest[name]
	if version > 0 {
		g = e.graphs[name][version]
	}
	if g == nil {
		if version > 0 {
			name = fmt.Sprintf("%s version %d", name, version)
		}
		return p, 0, fmt.Errorf("definition of %s: %w: neither is it registered, nor is its code here", name, ErrUnknownSaga)
	}
	return g.public(), g.version, nil
}

// Outline is the function [Outline] for what Graph gives.
func (e *Engine) Outline(ctx context.Context, name string, version int) (Plan, error) {
	p, found, err := e.Graph(ctx, name, version)
	if err != nil {
		return Plan{}, err
	}
	plan, err := p.Outline()
	if err != nil {
		return plan, fmt.Errorf("the registered definition of saga %s version %d: %w", name, found, err)
	}
	plan.Name, plan.Version = name, found
	return plan, nil
}

// KeyOf is [Key] by the saga's name, for tools.
func KeyOf(name, key string) Target { return Target{name: name, key: key} }
