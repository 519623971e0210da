package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// serving is a worker that runs, and where it answers.
type serving struct {
	t       *testing.T
	address string
	client  *http.Client
	stop    context.CancelFunc
	ended   chan result
}

// serve runs the command worker with HTTP on a free port.
func (h *theatre) serve(args ...string) *serving {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	s := &serving{t: h.t, client: &http.Client{Timeout: 30 * time.Second}, stop: cancel, ended: make(chan result, 1)}
	var out, errs lockedBuffer
	go func() {
		code := h.program().Run(ctx, Streams{
			Args:   append([]string{"worker", "--json", "--grace", "1s", "--log-level", "error", "--http-addr", "127.0.0.1:0"}, args...),
			Getenv: func(k string) string { return h.env[k] }, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		})
		s.ended <- result{code, out.String(), errs.String()}
		close(s.ended)
	}()
	h.t.Cleanup(func() { cancel(); <-s.ended })
	h.eventually(func() bool {
		select {
		case r := <-s.ended:
			h.t.Fatalf("the worker ended with %d: %s", r.code, r.stderr)
		default:
		}
		var e workerEvent
		line, _, whole := strings.Cut(out.String(), "\n")
		if whole && json.Unmarshal([]byte(line), &e) == nil {
			s.address = e.HTTP
		}
		return s.address != ""
	})
	return s
}

// get asks for a path, with a token if there is one.
func (s *serving) get(scheme, path, token string) (code int, body string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, scheme+"://"+s.address+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(raw)
}

// ready is what /readyz says.
func (s *serving) ready() (code int, state readiness) {
	s.t.Helper()
	code, body := s.get("http", "/readyz", "")
	if err := json.Unmarshal([]byte(body), &state); err != nil {
		s.t.Fatalf("/readyz says %d %q: %v", code, body, err)
	}
	return code, state
}

// TestHTTP: what a worker answers while it works, and that it is gone when the worker is.
func TestHTTP(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, sqltest.URL(t))
	s := h.serve("--broker", "memory")
	h.eventually(func() bool { code, _ := s.ready(); return code == http.StatusOK })
	_, state := s.ready()
	for _, name := range []string{"database", "schema", "leases", "broker"} {
		if !state.Checks[name].OK {
			t.Errorf("%s is not ready: %+v", name, state)
		}
	}
	if code, body := s.get("http", "/livez", ""); code != http.StatusOK || !strings.Contains(body, `"alive":true`) {
		t.Errorf("/livez: %d %s", code, body)
	}
	code, body := s.get("http", "/metrics", "")
	if code != http.StatusOK {
		t.Errorf("/metrics: %d", code)
	}
	contains(t, body, `saga_execution_total{saga_name="ticket",status="completed"} 0`, "outbox_buckets{", "go_goroutines")
	h.eventually(func() bool {
		_, body := s.get("http", "/metrics", "")
		return strings.Contains(body, "\nsaga_workers 1\n")
	})
	if code, _ := s.get("http", "/debug/pprof/", ""); code != http.StatusNotFound {
		t.Errorf("/debug/pprof/ without --pprof: %d", code)
	}
	if code, _ := s.get("http", "/", ""); code != http.StatusNotFound {
		t.Errorf("/: %d", code)
	}
	s.stop()
	if r := <-s.ended; r.code != exitOK {
		t.Errorf("the worker ended with %d: %s", r.code, r.stderr)
	}
	if code, _ := s.get("http", "/livez", ""); code != 0 {
		t.Errorf("it answers %d after its end", code)
	}
}

// TestForeignNames: what is for this machine alone, and without a token, is not for a page whose name was made to point here.
func TestForeignNames(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, sqltest.URL(t))
	open := h.serve("--pprof")
	protected := h.serve("--pprof", "--http-token", "s3cret")
	for _, c := range []struct {
		of         *serving
		host, path string
		token      string
		code       int
	}{
		{open, "evil.example", "/debug/pprof/cmdline", "", 421}, {open, "evil.example:9464", "/debug/pprof/heap", "", 421},
		{open, "evil.example", "/metrics", "", 421}, {open, "evil.example", "/readyz", "", 421}, {open, "localhost.evil.example", "/metrics", "", 421},
		{open, "127.0.0.1.evil.example", "/metrics", "", 421}, {open, "", "/metrics", "", 200}, // Go's client sends the address then
		{open, "localhost:9464", "/debug/pprof/cmdline", "", 200}, {open, "[::1]:9464", "/metrics", "", 200}, {open, open.address, "/metrics", "", 200},
		{protected, "shop.example", "/metrics", "s3cret", 200}, {protected, "shop.example", "/debug/pprof/cmdline", "", 401},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.of.address+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = c.host
		request.Header.Set("Authorization", "Bearer "+c.token)
		response, err := c.of.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != c.code {
			t.Errorf("%s of %q: %d, want %d", c.path, c.host, response.StatusCode, c.code)
		}
	}
}

// TestNotReady: a worker that waits for its database says so, and what else is not there yet; it is alive.
func TestNotReady(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, "postgres://nobody:secret@127.0.0.1:1/nothing")
	s := h.serve()
	code, state := s.ready()
	if code != http.StatusServiceUnavailable || state.Ready {
		t.Errorf("%d %+v", code, state)
	}
	for _, name := range []string{"database", "schema", "leases"} {
		if c := state.Checks[name]; c.OK || c.Reason == "" || strings.Contains(c.Reason, "secret") {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if _, there := state.Checks["broker"]; there {
		t.Error("a broker is asked for and there is none")
	}
	if code, _ := s.get("http", "/livez", ""); code != http.StatusOK {
		t.Errorf("/livez: %d: it waits, and is alive", code)
	}
}

// TestDrainIsNotReady: a worker that is told to stop says so at once, while it still ends what it has begun.
func TestDrainIsNotReady(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, sqltest.URL(t))
	s := h.serve("--grace", "20s")
	h.eventually(func() bool { code, _ := s.ready(); return code == http.StatusOK })
	var started struct{ ID string }
	h.ok(&started, "saga", "start", "ticket", "--input", `{"hold":true}`)
	h.eventually(func() bool {
		_, body := s.get("http", "/metrics", "")
		return strings.Contains(body, `saga_active_count{saga_name="ticket"} 1`)
	})
	s.stop()
	h.eventually(func() bool {
		code, state := s.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(state.Checks["leases"].Reason, "stopping")
	})
	close(h.held)
	if r := <-s.ended; r.code != exitOK {
		t.Errorf("the worker ended with %d: %s", r.code, r.stderr)
	}
}

// TestToken: /metrics and /debug/pprof want it, from a file as well; the probes do not.
func TestToken(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, sqltest.URL(t))
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.env["PGSAGAZ_HTTP_TOKEN_FILE"] = file
	s := h.serve("--pprof")
	for _, c := range []struct {
		path, token string
		code        int
	}{
		{"/metrics", "", 401}, {"/metrics", "s3cre", 401}, {"/metrics", "s3cret", 200},
		{"/debug/pprof/", "", 401}, {"/debug/pprof/", "s3cret", 200}, {"/debug/pprof/cmdline", "no", 401},
		{"/livez", "", 200},
	} {
		if code, body := s.get("http", c.path, c.token); code != c.code {
			t.Errorf("%s with token %q: %d, want %d\n%s", c.path, c.token, code, c.code, body)
		}
	}
}

// TestTLS: with a certificate there is no plain HTTP, and one that was renewed is used at once.
func TestTLS(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, sqltest.URL(t))
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := writeCertificate(t, cert, key, time.Now().Add(-time.Minute))
	s := h.serve("--http-cert", cert, "--http-key", key)
	trust := func(pool *x509.CertPool) {
		s.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	}
	trust(first)
	if code, body := s.get("https", "/livez", ""); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := s.get("http", "/livez", ""); code == 200 {
		t.Error("it answers without TLS")
	}
	trust(writeCertificate(t, cert, key, time.Now()))
	if code, body := s.get("https", "/livez", ""); code != 200 {
		t.Errorf("after the renewal: %d %s", code, body)
	}
}

// writeCertificate makes a certificate for loopback that signs itself, and writes it as of a time.
func writeCertificate(t *testing.T, cert, key string, at time.Time) *x509.CertPool {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(at.UnixNano()), NotBefore: at.Add(-time.Hour), NotAfter: at.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name, kind string
		bytes      []byte
	}{{key, "EC PRIVATE KEY", secret}, {cert, "CERTIFICATE", der}} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(f.name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(made)
	return pool
}

// TestHTTPIsAskedForWrongly: each mistake is named before anything runs.
func TestHTTPIsAskedForWrongly(t *testing.T) {
	t.Parallel()
	h := newTheatre(t, sqltest.URL(t))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, args := range map[string][]string{
		"--http-addr: \"nine\"": {"--http-addr", "nine"},
		"in use":                {"--http-addr", taken.Addr().String()},
		"both or none":          {"--http-cert", "x"},
		"no such file":          {"--http-cert", "/nowhere/c", "--http-key", "/nowhere/k"},
		"--pprof":               {"--http-addr", "0.0.0.0:0", "--pprof"},
	} {
		r := h.run(append([]string{"worker"}, args...)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, want) {
			t.Errorf("worker %v: exit code %d, %q; want %q", args, r.code, r.stderr, want)
		}
	}
}
