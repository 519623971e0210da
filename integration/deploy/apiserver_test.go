package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// operators are the kinds in k8s/ that a cluster knows only if it has an operator for them.
var operators = []string{"PrometheusRule", "ScaledObject", "ServiceMonitor", "TriggerAuthentication"}

// cluster is a real API server, with nothing that would run what it is told to. People reach it by kubectl, and so do tests.
type cluster struct {
	t                 *testing.T
	kubeconfig, cache string // the directory in which kubectl keeps what kinds there are
}

// kubectl runs it. Warnings of the server are never wanted.
func (c cluster) kubectl(input []byte, args ...string) (stdout, stderr string, err error) {
	c.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(c.t.Context(), "kubectl", append([]string{"--kubeconfig", c.kubeconfig, "--cache-dir", c.cache}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = root, bytes.NewReader(input), &out, &errs
	err = cmd.Run()
	for line := range strings.Lines(errs.String()) {
		if strings.HasPrefix(line, "Warning:") && !strings.Contains(line, "resource was not found") { // that is ours, of a delete
			c.t.Errorf("kubectl %s: %s", strings.Join(args, " "), line)
		}
	}
	return out.String(), errs.String(), err
}

// ok is what it prints, if it succeeds.
func (c cluster) ok(args ...string) string {
	c.t.Helper()
	out, errs, err := c.kubectl(nil, args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, errs)
	}
	return out
}

// each fails unless every line, which is one for an object, ends so, and there are n of them.
func (c cluster) each(out string, n int, endings ...string) {
	c.t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if !slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(line, " "+e) }) {
			c.t.Errorf("%s, want: %s", line, strings.Join(endings, " or "))
		}
	}
	if len(lines) != n {
		c.t.Errorf("%d objects, want %d:\n%s", len(lines), n, out)
	}
}

// generations are how often each object's specification has changed.
func (c cluster) generations() string {
	c.t.Helper()
	return c.ok("get", "-f", "k8s/", "-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation}{"\n"}{end}`)
}

// knows waits until the server tells that it has the operators' kinds, or that it has not.
func (c cluster) knows(wanted bool) {
	c.t.Helper()
	for _, group := range []string{"keda.sh", "monitoring.coreos.com"} {
		for begin := time.Now(); strings.Contains(c.ok("get", "--raw", "/apis"), `"`+group+`"`) != wanted; time.Sleep(100 * time.Millisecond) {
			if time.Since(begin) > 2*time.Minute {
				c.t.Fatalf("the server knows %s: still not %t", group, wanted)
			}
		}
	}
}

// empty takes all of it down. A namespace is done with when its controller says so, and here there is none.
func (c cluster) empty() {
	c.t.Helper()
	_, _, _ = c.kubectl(nil, "delete", "-f", "k8s/", "--ignore-not-found", "--wait=false")        // kinds that are not known are said to be so
	_, _, _ = c.kubectl(nil, "--namespace", "pgsagaz", "delete", "jobs", "--all", "--wait=false") // those of other versions
	raw, _, err := c.kubectl(nil, "get", "namespace", "pgsagaz", "-o", "json")
	if err != nil {
		return
	}
	var namespace corev1.Namespace
	if err := json.Unmarshal([]byte(raw), &namespace); err != nil {
		c.t.Fatal(err)
	}
	namespace.Spec.Finalizers = nil
	done, err := json.Marshal(namespace)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, errs, err := c.kubectl(done, "replace", "--raw", "/api/v1/namespaces/pgsagaz/finalize", "-f", "-"); err != nil {
		c.t.Fatalf("finalize the namespace: %v\n%s", err, errs)
	}
}

// TestAPIServer applies k8s/ to the API server of PGSAGAZ_TEST_KUBECONFIG, as README.md says. See .ci/kube-apiserver.sh.
func TestAPIServer(t *testing.T) {
	kubeconfig, definitions := os.Getenv("PGSAGAZ_TEST_KUBECONFIG"), os.Getenv("PGSAGAZ_TEST_KUBE_KINDS")
	if kubeconfig == "" || definitions == "" {
		t.Skip("no API server: see .ci/kube-apiserver.sh")
	}
	c := cluster{t, kubeconfig, t.TempDir()}
	all := manifests(t, "k8s")
	ofOperators := 0
	for _, o := range all {
		if slices.Contains(operators, o.kind) {
			ofOperators++
		}
	}
	t.Log(strings.ReplaceAll(c.ok("version"), "\n", ", "))
	run := func(name string, f func(cluster)) {
		t.Run(name, func(t *testing.T) {
			c := cluster{t, kubeconfig, t.TempDir()}
			c.empty()
			f(c)
		})
	}
	c.empty()
	c.ok("delete", "crd", "--all", "--wait=true")
	c.knows(false)

	// Kinds of operators are named, and all others are applied.
	run("WithoutOperators", func(c cluster) {
		out, errs, err := c.kubectl(nil, "apply", "-f", "k8s/")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			c.t.Errorf("kubectl ends with %v, want exit status 1", err)
		}
		var unknown []string
		for _, m := range regexp.MustCompile(`no matches for kind "(\w+)"`).FindAllStringSubmatch(errs, -1) {
			unknown = append(unknown, m[1])
		}
		slices.Sort(unknown)
		if unknown = slices.Compact(unknown); !slices.Equal(unknown, operators) {
			c.t.Errorf("not known are %v, want %v:\n%s", unknown, operators, errs)
		}
		c.each(out, len(all)-ofOperators, "created")
	})

	c.ok("apply", "--server-side", "-f", definitions)
	c.knows(true)

	// A namespace has to be there for a dry run of what is in it.
	run("DryRun", func(c cluster) {
		c.ok("create", "namespace", "pgsagaz")
		c.each(c.ok("apply", "--server-side", "--dry-run=server", "-f", "k8s/"), len(all), "serverside-applied (server dry run)")
	})

	run("InOneGo", func(c cluster) {
		c.each(c.ok("apply", "-f", "k8s/"), len(all), "created")
		before := c.generations()
		c.each(c.ok("apply", "-f", "k8s/"), len(all), "unchanged", "configured") // kubectl sends some again whatever it sees
		if after := c.generations(); after != before {
			c.t.Errorf("a second apply changes something:\n%s\n%s", before, after)
		}
		// The autoscaler's number of pods is not taken back.
		c.ok("--namespace", "pgsagaz", "scale", "deployment/outbox-worker", "--replicas=7")
		c.ok("apply", "-f", "k8s/")
		if got := c.ok("--namespace", "pgsagaz", "get", "deployment/outbox-worker", "-o", "jsonpath={.spec.replicas}"); got != "7" {
			c.t.Errorf("an apply has made %s replicas of 7", got)
		}
		c.each(c.ok("apply", "--dry-run=server", "-f", "k8s/external-metrics/hpa.yaml"), 1, "configured (server dry run)")
		c.each(c.ok("delete", "-f", "k8s/", "--wait=false"), len(all), "deleted", "deleted from pgsagaz namespace")
	})

	run("ServerSide", func(c cluster) {
		c.each(c.ok("apply", "--server-side", "-f", "k8s/"), len(all), "serverside-applied")
		before := c.generations()
		c.each(c.ok("apply", "--server-side", "-f", "k8s/"), len(all), "serverside-applied")
		if after := c.generations(); after != before {
			c.t.Errorf("a second apply changes something:\n%s\n%s", before, after)
		}
	})

	// What comes before its namespace is refused for that alone, and the next try finds it.
	run("InReverse", func(c cluster) {
		files, err := filepath.Glob(filepath.Join(root, "k8s", "*.yaml"))
		if err != nil || len(files) < 5 {
			c.t.Fatal(files, err)
		}
		slices.Reverse(files)
		for try := 1; ; try++ {
			refused := 0
			for _, file := range files {
				_, errs, err := c.kubectl(nil, "apply", "-f", filepath.Join("k8s", filepath.Base(file)))
				if err == nil {
					continue
				}
				refused++
				for line := range strings.Lines(errs) {
					if !strings.Contains(line, `namespaces "pgsagaz" not found`) {
						c.t.Errorf("%s: %s", file, line)
					}
				}
			}
			if refused == 0 {
				break
			}
			if try == 2 {
				c.t.Fatalf("%d files are refused at the second try", refused)
			}
		}
		c.each(c.ok("apply", "-f", "k8s/"), len(all), "unchanged", "configured")
	})

	// The namespace enforces restricted pod security: the pods pass, and one that may be root does not.
	run("Pods", func(c cluster) {
		c.ok("apply", "-f", "k8s/")
		for name, template := range podTemplates(c.t) {
			if name == "postgres" {
				for _, claim := range find[*appsv1.StatefulSet](c.t, all, "postgresql").Spec.VolumeClaimTemplates {
					template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{
						Name: claim.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
				}
			}
			pod := corev1.Pod{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "pgsagaz", Labels: template.Labels}, Spec: template.Spec,
			}
			create := func() (string, error) {
				raw, err := json.Marshal(pod)
				if err != nil {
					c.t.Fatal(err)
				}
				_, errs, err := c.kubectl(raw, "create", "--dry-run=server", "-f", "-")
				return errs, err
			}
			if errs, err := create(); err != nil {
				c.t.Errorf("%s: %v\n%s", name, err, errs)
			}
			pod.Spec.SecurityContext = nil
			if errs, err := create(); err == nil || !strings.Contains(errs, "violates PodSecurity") {
				c.t.Errorf("%s without a security context: %v\n%s", name, err, errs)
			}
		}
	})

	// A Job cannot be changed: a new version is a new one.
	run("NewVersion", func(c cluster) {
		c.ok("apply", "-f", "k8s/")
		job, err := os.ReadFile(filepath.Join(root, "k8s", "migration-job.yaml"))
		if err != nil {
			c.t.Fatal(err)
		}
		image := bytes.ReplaceAll(job, []byte("pgsagaz:1.0.0"), []byte("pgsagaz:1.2.0"))
		if _, errs, err := c.kubectl(image, "apply", "-f", "-"); err == nil || !strings.Contains(errs, "field is immutable") {
			c.t.Errorf("another image under the same name: %v\n%s", err, errs)
		}
		whole := bytes.ReplaceAll(bytes.ReplaceAll(job, []byte("1.0.0"), []byte("1.2.0")), []byte("1-0-0"), []byte("1-2-0"))
		out, errs, err := c.kubectl(whole, "apply", "-f", "-")
		if err != nil {
			c.t.Fatalf("%v\n%s", err, errs)
		}
		if !strings.Contains(out, "created") {
			c.t.Errorf("a new version: %s", out)
		}
	})
	c.empty()
}
