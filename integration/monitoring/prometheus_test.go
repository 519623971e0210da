package monitoring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// binary finds a program of Prometheus's.
func binary(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("PGSAGAZ_TEST_PROMETHEUS") == "required" {
			t.Fatal(err)
		}
		t.Skipf("no %s in PATH; Debian's package prometheus has it", name)
	}
	return path
}

// prometheus is a server that runs.
type prometheus struct {
	t       testing.TB
	address string
	targets string // the file that names them
}

// newPrometheus starts one on loopback, which evaluates the rules and scrapes the targets by jobs, each twice a second.
func newPrometheus(t testing.TB, rules string) *prometheus {
	t.Helper()
	program, dir := binary(t, "prometheus"), t.TempDir()
	p := &prometheus{t: t, address: freeAddress(t), targets: filepath.Join(dir, "targets.json")}
	config := fmt.Sprintf("global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\nrule_files: [%s]\n"+
		"scrape_configs:\n  - job_name: unnamed\n    file_sd_configs: [{files: [%s]}]\n", write(t, dir, "rules.yaml", rules), p.targets)
	p.scrape(nil)
	var log bytes.Buffer
	cmd := exec.Command(program, "--config.file="+write(t, dir, "prometheus.yml", config), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--log.level=warn")
	cmd.Dir, cmd.Stderr = dir, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, "Prometheus is ready", func() bool {
		response, err := http.Get("http://" + p.address + "/-/ready")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return p
}

// scrape says what to scrape, by job.
func (p *prometheus) scrape(jobs map[string][]string) {
	p.t.Helper()
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for job, targets := range jobs {
		groups = append(groups, group{targets, map[string]string{"job": job}})
	}
	raw, err := json.Marshal(groups)
	if err != nil {
		p.t.Fatal(err)
	}
	// Renamed into place, so that it is never read half written.
	if err := os.Rename(write(p.t, filepath.Dir(p.targets), "targets.new", string(raw)), p.targets); err != nil {
		p.t.Fatal(err)
	}
}

// sample is one series of an answer.
type sample struct {
	labels map[string]string
	value  float64
}

// query evaluates an expression.
func (p *prometheus) query(expression string) []sample {
	p.t.Helper()
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	p.get("/api/v1/query?query="+url.QueryEscape(expression), &answer)
	if answer.Status != "success" {
		p.t.Fatalf("%s: %s", expression, answer.Error)
	}
	var samples []sample
	for _, r := range answer.Data.Result {
		value, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			p.t.Fatal(err)
		}
		samples = append(samples, sample{r.Metric, value})
	}
	return samples
}

func (p *prometheus) get(path string, into any) {
	p.t.Helper()
	response, err := http.Get("http://" + p.address + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		p.t.Fatalf("%s: %v", path, err)
	}
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// write writes a file and returns its path.
func write(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read reads a file of the repository.
func read(t testing.TB, path ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(raw), "\r\n", "\n")
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never happened: " + what)
		}
	}
}
