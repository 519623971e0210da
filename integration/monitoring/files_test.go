package monitoring

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type rules struct {
	Groups []struct {
		Name, Interval string
		Rules          []rule
	}
}

type rule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func readRules(t testing.TB) (all []rule) {
	t.Helper()
	var r rules
	if err := yaml.Unmarshal([]byte(read(t, "k8s", "rules", "pgsagaz.rules.yaml")), &r); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// TestRulesAreTheSame: the operator's resource says what the plain file says.
func TestRulesAreTheSame(t *testing.T) {
	var plain, resource struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Groups     any
		Spec       struct{ Groups any }
	}
	for file, into := range map[string]any{"rules/pgsagaz.rules.yaml": &plain, "prometheus-rules.yaml": &resource} {
		if err := yaml.Unmarshal([]byte(read(t, "k8s", file)), into); err != nil {
			t.Fatal(file, err)
		}
	}
	if resource.Kind != "PrometheusRule" || resource.APIVersion != "monitoring.coreos.com/v1" || plain.Groups == nil || !reflect.DeepEqual(plain.Groups, resource.Spec.Groups) {
		t.Error("k8s/prometheus-rules.yaml does not hold the groups of k8s/rules/pgsagaz.rules.yaml")
	}
}

// TestPromtool: the rules are valid, and each alert fires and is silent when it should.
func TestPromtool(t *testing.T) {
	promtool := binary(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "pgsagaz.rules.yaml"}, {"test", "rules", "pgsagaz.rules.test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Join("..", "..", "k8s", "rules")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	tests := read(t, "k8s", "rules", "pgsagaz.rules.test.yaml")
	for _, r := range readRules(t) {
		for _, what := range []string{"fires", "is silent"} {
			if !strings.Contains(tests, "- name: "+r.Alert+" "+what+"\n") {
				t.Errorf("no test in which %s %s", r.Alert, what)
			}
		}
	}
}

// TestEveryAlertHasItsPage, and every page its alert.
func TestEveryAlertHasItsPage(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", "..", "docs", "runbooks"))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]bool{}
	for _, e := range entries {
		pages[strings.TrimSuffix(e.Name(), ".md")] = true
	}
	delete(pages, "README")
	index := read(t, "docs", "runbooks", "README.md")
	for _, r := range readRules(t) {
		if !pages[r.Alert] {
			t.Errorf("alert %s has no page", r.Alert)
			continue
		}
		delete(pages, r.Alert)
		if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/runbooks/"+r.Alert+".md") || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("alert %s: annotations %v", r.Alert, r.Annotations)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("alert %s: severity %q", r.Alert, r.Labels["severity"])
		}
		page := read(t, "docs", "runbooks", r.Alert+".md")
		last := 0
		for _, part := range []string{"# " + r.Alert + "\n", "\n## Meaning\n", "\n## Checks\n", "\n## Mending\n", "\n## Aftermath\n"} {
			i := strings.Index(page, part)
			if i < last {
				t.Errorf("%s.md: %q is missing, or not in its place", r.Alert, strings.TrimSpace(part))
			}
			last = max(last, i)
		}
		if !strings.Contains(index, "["+r.Alert+"]("+r.Alert+".md)") {
			t.Errorf("%s is not in the index of runbooks", r.Alert)
		}
	}
	for name := range pages {
		t.Errorf("%s.md is the page of no alert", name)
	}
}

// family is what the documentation says of a metric.
type family struct {
	kind   string
	labels []string
}

var tableRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\|([a-z_, ]*)\\|")

// documented are the metrics of docs/metrics.md.
func documented(t testing.TB) map[string]family {
	t.Helper()
	all := map[string]family{}
	for _, m := range tableRow.FindAllStringSubmatch(read(t, "docs", "metrics.md"), -1) {
		f := family{kind: m[2]}
		for label := range strings.SplitSeq(m[3], ",") {
			if label = strings.TrimSpace(label); label != "" {
				f.labels = append(f.labels, label)
			}
		}
		slices.Sort(f.labels)
		all[m[1]] = f
	}
	if len(all) < 50 {
		t.Fatalf("%d metrics are documented", len(all))
	}
	return all
}

// aMetric is what may be the name of one of ours, as it is used in an expression.
var aMetric = regexp.MustCompile(`\b(?:saga|outbox|consumer_inbox|pgsagaz|river)_[a-z_]+\b`)

// notMetrics look like some.
var notMetrics = map[string]bool{"saga_name": true, "outbox_id_seq": true}

// TestEveryNamedMetricIsDocumented: what rules, dashboard and runbooks name exists.
func TestEveryNamedMetricIsDocumented(t *testing.T) {
	known := documented(t)
	files := map[string]string{
		"rules": read(t, "k8s", "rules", "pgsagaz.rules.yaml"), "tests of the rules": read(t, "k8s", "rules", "pgsagaz.rules.test.yaml"),
		"metrics.md": read(t, "docs", "metrics.md"),
	}
	for _, p := range panels(t) {
		files["panel "+p.title] += strings.Join(p.queries, "\n")
	}
	for _, r := range readRules(t) {
		files[r.Alert+".md"] = read(t, "docs", "runbooks", r.Alert+".md")
	}
	for file, text := range files {
		for _, name := range aMetric.FindAllString(text, -1) {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if trimmed := strings.TrimSuffix(name, suffix); known[trimmed].kind == "histogram" {
					base = trimmed
				}
			}
			if _, ok := known[base]; !ok && !notMetrics[name] {
				t.Errorf("%s: %s is not documented in docs/metrics.md", file, name)
			}
		}
	}
}

type panel struct {
	title   string
	queries []string
}

// panels are those of the dashboard.
func panels(t testing.TB) (all []panel) {
	t.Helper()
	var dashboard struct {
		UID, Title string
		Panels     []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, W int }
			Targets     []struct{ Expr, RefID, LegendFormat string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "k8s", "grafana", "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	var rows []string
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %s: its id is not its own, or it does not fit in", p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		one := panel{title: p.Title}
		for _, q := range p.Targets {
			one.queries = append(one.queries, q.Expr)
		}
		if len(one.queries) == 0 {
			t.Errorf("panel %s asks nothing", p.Title)
		}
		all = append(all, one)
	}
	if want := []string{"Sagas", "Steps", "Outbox", "Inbox", "Postgres"}; !slices.Equal(rows, want) {
		t.Errorf("the rows are %v, want %v", rows, want)
	}
	return all
}

// TestTheDashboardShowsAll: a metric that no panel shows and no alert watches is one that nobody looks at.
func TestTheDashboardShowsAll(t *testing.T) {
	shown := ""
	for _, p := range panels(t) {
		shown += strings.Join(p.queries, "\n") + "\n"
	}
	for _, name := range slices.Sorted(maps.Keys(documented(t))) {
		if !strings.Contains(shown, name) {
			t.Errorf("no panel shows %s", name)
		}
	}
}
