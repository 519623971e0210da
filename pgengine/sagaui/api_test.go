package sagaui_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/internal/consoletest"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/sagaui"
)

// call asks for JSON, and holds the answer against the OpenAPI document.
func (b *browser) call(method, path, body string, code int, into any) {
	b.t.Helper()
	r := b.request(method, path, strings.NewReader(body))
	if method == "POST" {
		r.Header.Set("Content-Type", "application/json")
	}
	a := b.send(r)
	if a.StatusCode != code || a.Header.Get("Content-Type") != "application/json" {
		b.t.Fatalf("%s %s: %s, %s\n%s", method, path, a.Status, a.Header.Get("Content-Type"), a.body)
	}
	plain, _, _ := strings.Cut(path, "?")
	for _, wrong := range sagaui.Conforms(strings.ToLower(method), "/"+plain, code, []byte(a.body)) {
		b.t.Errorf("%s %s: %s", method, path, wrong)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		b.t.Fatal(err)
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	w := consoletest.New(t)
	w.BrokerDown.Store(true)
	w.CarrierDown.Store(true)
	order := w.Start(consoletest.Order{ID: "o", Cents: 3}, &pgengine.StartOptions{Key: "k", Tags: []string{"t"}})
	w.Becomes(order, pgengine.Stuck)
	w.CarrierDown.Store(false)
	w.AirlineDown.Store(true)
	trip := w.Start(consoletest.Trip{To: "Rome", Stops: 1}, nil)
	w.Awaits(trip)
	b := open(t, sagaui.NewHandler(w.Engine, &sagaui.Options{Authorize: sagaui.AllowAll, Logger: quiet}))

	var overview sagaui.Overview
	b.call("GET", "api/v1/overview", "", 200, &overview)
	if len(overview.Stuck) != 1 || overview.Stuck[0].ID != order || overview.Open[pgengine.Running] != 1 || overview.Open[pgengine.Stuck] != 1 || len(overview.Workers) != 1 {
		t.Errorf("%+v", overview)
	}
	var list sagaui.List
	b.call("GET", "api/v1/sagas?state=stuck&key=k", "", 200, &list)
	if len(list.Sagas) != 1 || list.Sagas[0].ID != order || !strings.HasPrefix(list.Sagas[0].StuckAt, "ship: carrier") {
		t.Errorf("%+v", list)
	}
	b.call("GET", "api/v1/sagas?limit=1", "", 200, &list)
	if list.Next != list.Sagas[0].ID {
		t.Errorf("the next page is after %q", list.Next)
	}
	var saga struct {
		sagaui.Saga
		Seen string `json:"seen"`
	}
	b.call("GET", "api/v1/sagas/"+order, "", 200, &saga)
	if saga.State != pgengine.Stuck || len(saga.Steps) < 4 || string(saga.Input) == "" || saga.Waits[0].Step != "ship" {
		t.Errorf("%+v", saga)
	}
	b.call("GET", "api/v1/definitions", "", 200, nil)
	var definition sagaui.Definition
	b.call("GET", "api/v1/definitions/order/2", "", 200, &definition)
	if definition.Plan.Pivot != "charge" || len(definition.Plan.Faults) < 5 {
		t.Errorf("%+v", definition)
	}
	var offered struct {
		Seen    string
		Actions []struct {
			Name     string
			Foretold []string
		}
	}
	b.call("GET", "api/v1/sagas/"+order+"/actions", "", 200, &offered)
	if len(offered.Actions) != 3 || offered.Actions[0].Name != "retry" || len(offered.Actions[0].Foretold) == 0 || offered.Seen != saga.Seen {
		t.Errorf("%+v", offered)
	}
	act := "api/v1/sagas/" + order + "/actions/"
	for body, code := range map[string]int{`{`: 400, `{"reason": ""}`: 422, `{"reason": "x", "colour": 1}`: 400, `{"reason": "x", "seen": "y"}`: 409} {
		b.call("POST", act+"retry", body, code, nil)
	}
	b.call("POST", act+"cancel", `{"reason": "x"}`, 409, nil)
	b.call("POST", act+"resolve", `{"reason": "x", "step": "ship", "outcome": "done", "result": 7}`, 422, nil)
	b.call("POST", act+"resolve", `{"reason": "x", "step": "charge", "outcome": "done", "result": {}}`, 409, nil)
	b.call("POST", act+"retry", `{"reason": "the lorry is back", "seen": "`+offered.Seen+`"}`, 202, nil)
	w.Becomes(order, pgengine.Completed)

	b.call("POST", "api/v1/sagas/"+trip+"/actions/signal", `{"reason": "x", "signal": "nope", "payload": {}}`, 409, nil)
	b.call("POST", "api/v1/sagas/"+trip+"/actions/cancel", `{"reason": "no holiday"}`, 202, nil)
	w.Becomes(trip, pgengine.Stuck)
	b.call("GET", "api/v1/sagas/"+trip, "", 200, nil)

	letter := jsonOf(w.DeadLetter())
	b.call("GET", "api/v1/outbox", "", 200, nil)
	b.call("GET", "api/v1/outbox/"+letter, "", 200, nil)
	b.call("GET", "api/v1/outbox/"+letter+"/actions", "", 200, nil)
	b.call("POST", "api/v1/outbox/"+letter+"/actions/drop", `{"reason": "never mind"}`, 202, nil)
	b.call("GET", "api/v1/outbox/"+letter, "", 404, nil)
	b.call("GET", "api/v1/inbox", "", 200, nil)
	b.call("GET", "api/v1/inbox/1", "", 404, nil)
	b.call("GET", "api/v1/openapi.json", "", 200, nil)
	if a := b.get("api/v1/nothing"); a.StatusCode != http.StatusNotFound || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("nothing: %s", a.Status)
	}
}
