//go:build unix

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// outside is the world that sagas call: it acts once a key, gives the same answer for it ever after, and refuses what
// comes after its own undo. It lives in the test's process, so that it outlives all workers and has one clock.
type outside struct {
	url string

	mu    sync.Mutex
	keys  map[string]*effect
	gates map[string]*gate
}

// effect is what became of a key.
type effect struct {
	Calls     int    // of do
	Effective int    // how often a call changed something
	Refused   int    // calls after the undo
	Undos     int    // calls of undo
	Standing  bool   // done, and not undone
	Undone    bool   // also if it had never been done: the key is remembered
	Receipt   string // the answer
}

// gate holds the first who comes until it is opened, and lets everybody after him pass.
type gate struct {
	opened   chan struct{}
	arrivals []arrival
}

type arrival struct {
	worker string
	at     time.Time
}

func newOutside(t testing.TB) *outside {
	o := &outside{keys: map[string]*effect{}, gates: map[string]*gate{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/do", o.do)
	mux.HandleFunc("/undo", o.undo)
	mux.HandleFunc("/find", o.find)
	mux.HandleFunc("/gate", o.pass)
	server := httptest.NewServer(mux)
	o.url = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return o
}

func (o *outside) of(r *http.Request) *effect {
	key := r.FormValue("key")
	if o.keys[key] == nil {
		o.keys[key] = &effect{Receipt: "receipt of " + key}
	}
	return o.keys[key]
}

func (o *outside) do(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.of(r)
	e.Calls++
	switch {
	case e.Undone:
		e.Refused++
		http.Error(w, "was undone", http.StatusConflict)
		return
	case !e.Standing:
		e.Standing = true
		e.Effective++
	}
	_ = json.NewEncoder(w).Encode(e)
}

func (o *outside) undo(_ http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.of(r)
	e.Undos++
	e.Undone, e.Standing = true, false
}

func (o *outside) find(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.of(r); e.Effective > 0 {
		_ = json.NewEncoder(w).Encode(e)
		return
	}
	http.NotFound(w, r)
}

// key is what became of a key.
func (o *outside) key(key string) effect {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.keys[key]; e != nil {
		return *e
	}
	return effect{}
}

// gate makes the gate of a step, named "ship" or "undo ship", of an order. It is opened by the test's end at the latest.
func (o *outside) gate(t testing.TB, order, step string) *gate {
	g := &gate{opened: make(chan struct{})}
	o.mu.Lock()
	o.gates[order+"/"+step] = g
	o.mu.Unlock()
	t.Cleanup(func() { o.open(g) })
	return g
}

func (o *outside) open(g *gate) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

func (o *outside) pass(_ http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	g := o.gates[r.FormValue("at")]
	if g == nil {
		o.mu.Unlock()
		return
	}
	g.arrivals = append(g.arrivals, arrival{worker: r.FormValue("worker"), at: time.Now()})
	first := len(g.arrivals) == 1
	o.mu.Unlock()
	if first {
		select {
		case <-g.opened:
		case <-r.Context().Done(): // who waited is gone
		}
	}
}

// arrival waits for the n-th who comes to a gate, from 1.
func (o *outside) arrival(t testing.TB, g *gate, n int) arrival {
	t.Helper()
	var a arrival
	eventually(t, patience, fmt.Sprintf("arrival %d at a gate", n), func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(g.arrivals) < n {
			return false
		}
		a = g.arrivals[n-1]
		return true
	})
	return a
}

// client is a worker's way to the outside.
type client struct {
	url, worker string
	http        *http.Client
}

func newClient(url, worker string) *client {
	return &client{url: url, worker: worker, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
}

func (c *client) call(ctx context.Context, path string, values url.Values) (receipt string, status int, err error) {
	values.Set("worker", c.worker)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path+"?"+values.Encode(), nil)
	if err != nil {
		return "", 0, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	var e effect
	if answer.StatusCode == http.StatusOK && path != "/gate" && path != "/undo" {
		err = json.NewDecoder(answer.Body).Decode(&e)
	}
	return e.Receipt, answer.StatusCode, err
}

func (c *client) do(ctx context.Context, key string) (receipt string, err error) {
	receipt, status, err := c.call(ctx, "/do", url.Values{"key": {key}})
	if err == nil && status == http.StatusConflict {
		return "", pgengine.Terminal(errors.New("the key was undone"))
	}
	return receipt, err
}

func (c *client) undo(ctx context.Context, key string) error {
	_, _, err := c.call(ctx, "/undo", url.Values{"key": {key}})
	return err
}

func (c *client) find(ctx context.Context, key string) (receipt string, found bool, err error) {
	receipt, status, err := c.call(ctx, "/find", url.Values{"key": {key}})
	return receipt, status == http.StatusOK, err
}

// pass goes through the gate of an order's step, if it has one.
func (c *client) pass(ctx context.Context, order Order, step string) error {
	if !order.gated(step) {
		return nil
	}
	if order.Deaf {
		ctx = context.WithoutCancel(ctx)
	}
	_, _, err := c.call(ctx, "/gate", url.Values{"at": {order.ID + "/" + step}})
	return err
}
