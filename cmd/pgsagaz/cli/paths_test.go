package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	workerPath  = regexp.MustCompile("(?:`|what |and |under |127\\.0\\.0\\.1:9464)(/(?:metrics|livez|readyz|debug)[a-z/]*)")
	consolePath = regexp.MustCompile(`api/v1/([a-z$][A-Za-z0-9/{}$._]*)`)
)

// TestPathsInDocuments: each path of the worker and of the console that a document names is answered, and each that the worker answers is named.
func TestPathsInDocuments(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	documents := []string{filepath.Join(root, "README.md"), filepath.Join(root, "k8s", "README.md")}
	for _, pattern := range []string{"*.md", filepath.Join("runbooks", "*.md")} {
		more, err := filepath.Glob(filepath.Join(root, "docs", pattern))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, more...)
	}
	var api struct{ Paths map[string]any }
	raw, err := os.ReadFile(filepath.Join(root, "pgengine", "sagaui", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &api); err != nil {
		t.Fatal(err)
	}
	shapes := map[string]bool{}
	for path := range api.Paths {
		shapes[shape(path[strings.Index(path, "api/v1/")+len("api/v1/"):])] = true
	}
	a := &app{}
	a.cfg.pprof = true
	routes := a.routes(prometheus.NewRegistry(), nil)
	named, asked := map[string]bool{}, 0
	for _, d := range documents {
		text, err := os.ReadFile(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range workerPath.FindAllStringSubmatch(string(text), -1) {
			named[m[1]] = true
			answer := httptest.NewRecorder()
			routes.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, m[1], nil))
			if answer.Code == http.StatusNotFound {
				t.Errorf("%s names %s, which nobody answers", filepath.Base(d), m[1])
			}
		}
		for _, m := range consolePath.FindAllStringSubmatch(string(text), -1) {
			if asked++; !shapes[shape(m[1])] {
				t.Errorf("%s names api/v1/%s, which the console does not answer", filepath.Base(d), m[1])
			}
		}
	}
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/debug/pprof"} {
		if !named[path] {
			t.Errorf("no document names %s", path)
		}
	}
	if asked < 5 {
		t.Errorf("only %d paths of the console were found in documents", asked)
	}
}

// shape is a path without what stands for something: {id}, or $ID in a command. An action stands for itself in documents, and for any in the API.
func shape(path string) string {
	parts := strings.Split(strings.Trim(path, "/."), "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") || strings.HasPrefix(p, "$") || i > 0 && parts[i-1] == "actions" {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}
