package cli

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// defaultHTTP is where a worker answers if it was not told where.
const defaultHTTP = "127.0.0.1:9464"

// check is a question that readiness depends on. It answers nil, or says why not.
type check struct {
	name string
	ask  func(context.Context) error
}

// newRegistry makes the registry of this process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// listen opens the address that a worker answers on; nil: it answers nowhere. The default is for the first worker of a machine:
// the others do without. An address that was asked for must be free.
func (a *app) listen(log *slog.Logger) (net.Listener, error) {
	if a.cfg.httpAddr == "off" || a.cfg.httpAddr == "" {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(a.cfg.httpAddr)
	if err != nil {
		return nil, usagef("--http-addr: %q is neither host:port nor off", a.cfg.httpAddr)
	}
	if a.cfg.pprof && a.cfg.httpToken == "" && !loopback(host) {
		return nil, usagef("--pprof: %s is not loopback, so that --http-token is needed: a profile shows what a program holds in memory", a.cfg.httpAddr)
	}
	secure, err := a.httpTLS()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", a.cfg.httpAddr)
	if errors.Is(err, syscall.EADDRINUSE) && a.cfg.httpAddr == defaultHTTP {
		log.Warn("something else answers on the default address, so this worker serves no HTTP; --http-addr says where it is to", "address", defaultHTTP)
		return nil, nil
	}
	if err != nil {
		return nil, usagef("--http-addr: %w", err)
	}
	if secure != nil {
		listener = tls.NewListener(listener, secure)
	}
	return listener, nil
}

// httpTLS is the configuration for TLS; nil: none was asked for.
func (a *app) httpTLS() (*tls.Config, error) {
	if a.cfg.httpCert == "" && a.cfg.httpKey == "" {
		return nil, nil
	}
	if a.cfg.httpCert == "" || a.cfg.httpKey == "" {
		return nil, usagef("--http-cert and --http-key: give both or none")
	}
	c := &certificate{cert: a.cfg.httpCert, key: a.cfg.httpKey}
	if _, err := c.get(nil); err != nil {
		return nil, usagef("--http-cert, --http-key: %w", err)
	}
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// certificate is read again when its file changes, so that one that is renewed is used without a restart.
type certificate struct {
	cert, key string

	mu     sync.Mutex
	loaded *tls.Certificate
	at     time.Time // the file's
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.cert)
	if err == nil && c.loaded != nil && info.ModTime().Equal(c.at) {
		return c.loaded, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.cert, c.key); err == nil {
			c.loaded, c.at = &pair, info.ModTime()
			return c.loaded, nil
		}
	}
	if c.loaded != nil {
		return c.loaded, nil // half of the pair may have been written; the next connection looks again
	}
	return nil, err
}

// serve answers until ctx ends.
func (a *app) serve(ctx context.Context, listener net.Listener, registry *prometheus.Registry, checks []check, log *slog.Logger) error {
	routes := a.routes(registry, checks)
	// A certificate would not fit a foreign name, and on other addresses the names of this machine are not known here.
	address := listener.Addr().String()
	if host, _, err := net.SplitHostPort(address); err == nil && loopback(host) && a.cfg.httpToken == "" && a.cfg.httpCert == "" {
		routes = atHome(routes, address)
	}
	server := &http.Server{
		Handler: routes, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if server.Shutdown(bounded) != nil {
		_ = server.Close() // a client that is slow
	}
	<-done
	return nil
}

func (a *app) routes(registry *prometheus.Registry, checks []check) http.Handler {
	mux, token := http.NewServeMux(), a.cfg.httpToken
	mux.Handle("GET /metrics", needs(token, promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, map[string]bool{"alive": true}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		state := askAll(r.Context(), checks)
		code := http.StatusOK
		if !state.Ready {
			code = http.StatusServiceUnavailable
		}
		answer(w, code, state)
	})
	if a.cfg.pprof {
		mux.Handle("GET /debug/pprof/", needs(token, http.HandlerFunc(pprof.Index)))
		mux.Handle("GET /debug/pprof/cmdline", needs(token, http.HandlerFunc(pprof.Cmdline)))
		mux.Handle("GET /debug/pprof/profile", needs(token, http.HandlerFunc(pprof.Profile)))
		mux.Handle("GET /debug/pprof/symbol", needs(token, http.HandlerFunc(pprof.Symbol)))
		mux.Handle("GET /debug/pprof/trace", needs(token, http.HandlerFunc(pprof.Trace)))
	}
	return mux
}

// readiness is what /readyz answers.
type readiness struct {
	Ready  bool               `json:"ready"`
	Checks map[string]checked `json:"checks"`
}

type checked struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // why not
}

// askAll asks all at once, so that one that hangs does not hide the others.
func askAll(ctx context.Context, checks []check) readiness {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	errs := make([]error, len(checks))
	var asking sync.WaitGroup
	for i, c := range checks {
		asking.Go(func() { errs[i] = c.ask(ctx) })
	}
	asking.Wait()
	state := readiness{Ready: true, Checks: map[string]checked{}}
	for i, c := range checks {
		v := checked{OK: errs[i] == nil}
		if errs[i] != nil {
			state.Ready, v.Reason = false, errs[i].Error()
		}
		state.Checks[c.name] = v
	}
	return state
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}

// needs lets through who has the token; "": everybody. Digests are compared, so that the time tells not even its length.
func needs(token string, next http.Handler) http.Handler {
	if token == "" {
		return next
	}
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(given))
		if !ok || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="pgsagaz"`)
			answer(w, http.StatusUnauthorized, map[string]string{"error": fmt.Sprintf("%s needs the bearer token that this worker was given", r.URL.Path)})
			return
		}
		next.ServeHTTP(w, r)
	})
}
