package sagaui_test

import (
	"errors"
	"net/http"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
)

// An application mounts the console among its own pages.
func ExampleNewHandler() {
	var engine *pgengine.Engine // of pgengine.New
	mux := http.NewServeMux()
	mux.Handle("/admin/sagas/", sagaui.NewHandler(engine, &sagaui.Options{
		Prefix: "/admin/sagas", Authorize: sagaui.AllowAll, // the mux lets administrators in, and nobody else
	}))
}

// Support may look, see payloads and try again; all else is for administrators.
func ExampleOptions() {
	var engine *pgengine.Engine // of pgengine.New
	var role func(*http.Request) string
	_ = func() http.Handler {
		return sagaui.NewHandler(engine, &sagaui.Options{
			Authorize: func(r *http.Request, action string, _ *pgengine.Status) error {
				switch role(r) {
				case "admin":
					return nil
				case "support":
					if action == sagaui.View || action == sagaui.Payloads || action == "retry" {
						return nil
					}
				}
				return errors.New("ask an administrator")
			},
			Actor: func(r *http.Request) string { return r.Header.Get("X-User") },
		})
	}
}
