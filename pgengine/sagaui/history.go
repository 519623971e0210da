package sagaui

import (
	"net/http"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// History is a saga with all that happened to it, in the order of time.
type History struct {
	pgengine.Status
	Withheld bool             `json:"withheld,omitempty"` // inputs, results and signals, for want of permission
	Events   []pgengine.Entry `json:"events"`
}

func (c *console) history(r *http.Request) (any, error) {
	status, err := c.engine.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if err := c.permit(r, View, &status); err != nil {
		return nil, err
	}
	messages, err := c.engine.Messages(r.Context(), status.ID)
	if err != nil {
		return nil, err
	}
	h := History{Withheld: c.may(r, Payloads, &status) != nil}
	if h.Withheld {
		withhold(&status)
	}
	h.Status, h.Events = status, status.Events(messages)
	return h, nil
}
