// Package sagaui is the console: pages on which a person sees every saga, understands those that are stuck, and acts.
//
//	mux.Handle("/sagas/", sagaui.NewHandler(engine, &sagaui.Options{Prefix: "/sagas", Authorize: mayDo}))
//
// It is one http.Handler over an engine. Pages are rendered here and work without JavaScript; a small script of our own
// keeps them fresh. Nothing is asked of any other host, and the Content-Security-Policy forbids it. All links are
// relative, so that it can be mounted under any prefix, with Options.Prefix or with http.StripPrefix.
//
// # How a request flows
//
//	Handler      handler.go   headers, cross-origin protection, Authorize(view)
//	 ├ pages     pages.go     the one table of what can be looked at: path, template, and the function that loads it
//	 │  └ load   overview.go, list.go, saga.go, definitions.go, messages.go: plain structs, with JSON tags
//	 ├ actions   actions.go   the one table of what can be done: to what, what to ask for, what it will do, the call
//	 │  └ perform act.go      token, Authorize(action), moved on?, the same engine function that the command line calls
//	 └ write     html.go or api.go: the same struct as a page, or as JSON under api/v1/
//
// A page and its JSON are one struct: what one shows the other tells. A new page is one entry in pages and a template; a
// new action is one entry in actions.
//
// # What is protected how
//
// Without Options.Authorize it is read-only, and payloads (inputs, results, signals, messages) are withheld. An action is
// only ever a POST. http.CrossOriginProtection refuses those that another site's page makes; a form carries a token that
// must equal a cookie which other sites can neither read nor send, and JSON must say that it is JSON, which no form can.
// Each form carries what its page showed of the state: if that has moved on, nothing is done, and the page says so.
//
// Whatever users and brokers wrote is escaped, cut at Options.MaxShown bytes, and control and direction characters in it are
// shown by their code points.
package sagaui
