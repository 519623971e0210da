package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podTemplates are the pods that the manifests make, by the name of their owner.
func podTemplates(t *testing.T) map[string]corev1.PodTemplateSpec {
	all := manifests(t, "k8s")
	return map[string]corev1.PodTemplateSpec{
		"worker":    find[*appsv1.Deployment](t, all, "outbox-worker").Spec.Template,
		"migration": job(t, all).Spec.Template,
		"postgres":  find[*appsv1.StatefulSet](t, all, "postgresql").Spec.Template,
	}
}

func job(t *testing.T, all []object) *batchv1.Job {
	t.Helper()
	for _, o := range all {
		if j, ok := o.body.(*batchv1.Job); ok {
			return j
		}
	}
	t.Fatal("there is no Job")
	return nil
}

// TestPodsAreRestricted asks the code that the API server itself asks, and more than it.
func TestPodsAreRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}
	for name, pod := range podTemplates(t) {
		for _, r := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
			if !r.Allowed {
				t.Errorf("%s: %s: %s", name, r.ForbiddenReason, r.ForbiddenDetail)
			}
		}
		if v := pod.Spec.AutomountServiceAccountToken; v == nil || *v {
			t.Errorf("%s gets a token of the cluster", name)
		}
		if v := pod.Spec.EnableServiceLinks; v == nil || *v {
			t.Errorf("%s gets variables of services, whose names may be those of settings", name)
		}
		for _, c := range pod.Spec.Containers {
			if v := c.SecurityContext.ReadOnlyRootFilesystem; v == nil || !*v {
				t.Errorf("%s: the root of %s can be written to", name, c.Name)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: %s does not say what it needs", name, c.Name)
			}
			if !pinned.MatchString(c.Image) {
				t.Errorf("%s: the image %s is not pinned", name, c.Image)
			}
		}
	}
	for name, pod := range podTemplates(t) {
		if name == "postgres" {
			continue
		}
		if v := pod.Spec.SecurityContext.RunAsUser; v == nil || *v != 1000 {
			t.Errorf("%s does not run as 1000", name)
		}
	}
}

// pinned is a tag with a version of at least two numbers.
var pinned = regexp.MustCompile(`^[^:]+:v?\d+\.\d+`)

// One tag for all, which is the Job's name as well: a Job cannot be changed, and a new release is a new one.
func TestOneVersion(t *testing.T) {
	pods := podTemplates(t)
	image := pods["worker"].Spec.Containers[0].Image
	if other := pods["migration"].Spec.Containers[0].Image; other != image {
		t.Errorf("the workers run %s, and the migration %s", image, other)
	}
	_, tag, _ := strings.Cut(image, ":")
	if name := job(t, manifests(t, "k8s")).Name; name != "pgsagaz-migrate-"+strings.ReplaceAll(tag, ".", "-") {
		t.Errorf("the Job %s does not carry the tag %s", name, tag)
	}
	compose, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil || !strings.Contains(string(compose), "image: "+image+"\n") {
		t.Errorf("docker-compose.yml does not run %s (%v)", image, err)
	}
}

func TestWorkerScalesAndIsKept(t *testing.T) {
	all := manifests(t, "k8s")
	d := find[*appsv1.Deployment](t, all, "outbox-worker")
	pod := labels.Set(d.Spec.Template.Labels)
	hpas := []*autoscalingv2.HorizontalPodAutoscaler{find[*autoscalingv2.HorizontalPodAutoscaler](t, all, "outbox-worker")}
	for _, name := range []string{"hpa.yaml"} {
		b, err := os.ReadFile(filepath.Join(root, "k8s/external-metrics", name))
		if err != nil {
			t.Fatal(err)
		}
		o, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		hpas = append(hpas, o.body.(*autoscalingv2.HorizontalPodAutoscaler))
	}
	for _, hpa := range hpas {
		if ref := hpa.Spec.ScaleTargetRef; ref.Kind != "Deployment" || ref.Name != d.Name || ref.APIVersion != "apps/v1" {
			t.Errorf("the HPA scales %+v", ref)
		}
		if hpa.Spec.MinReplicas == nil || *hpa.Spec.MinReplicas != 3 || hpa.Spec.MaxReplicas != 10 {
			t.Errorf("the HPA scales from %v to %d", hpa.Spec.MinReplicas, hpa.Spec.MaxReplicas)
		}
	}
	so := find[*scaledObject](t, all, "outbox-worker")
	if so.Spec.ScaleTargetRef.Name != d.Name || *so.Spec.MinReplicaCount != 3 || *so.Spec.MaxReplicaCount != 10 {
		t.Errorf("KEDA scales %+v", so.Spec)
	}
	if so.Spec.Advanced.HorizontalPodAutoscalerConfig.Name != hpas[0].Name || so.Annotations["scaledobject.keda.sh/transfer-hpa-ownership"] != "true" {
		t.Error("KEDA does not take the HPA over: it would refuse a second one for the Deployment")
	}
	auth := find[*triggerAuthentication](t, all, "outbox-worker")
	secret := find[*corev1.Secret](t, all, "pgsagaz-secrets")
	for _, trigger := range so.Spec.Triggers {
		if trigger.Type != "postgresql" || trigger.AuthenticationRef == nil || trigger.AuthenticationRef.Name != auth.Name {
			t.Errorf("%+v", trigger)
		}
	}
	for _, ref := range auth.Spec.SecretTargetRef {
		if ref.Name != secret.Name || secret.StringData[ref.Key] == "" {
			t.Errorf("KEDA reads %+v", ref)
		}
	}
	if d.Spec.Replicas != nil {
		t.Error("replicas are set: each apply would take back what the HPA has decided")
	}
	pdb := find[*policyv1.PodDisruptionBudget](t, all, "outbox-worker")
	if pdb.Spec.MinAvailable.IntValue() < 1 || pdb.Spec.MinAvailable.IntValue() >= int(*hpas[0].Spec.MinReplicas) {
		t.Errorf("the disruption budget keeps %s of %d: no node could be drained, or all", pdb.Spec.MinAvailable, *hpas[0].Spec.MinReplicas)
	}
	service := find[*corev1.Service](t, all, "outbox-worker")
	np := find[*networkingv1.NetworkPolicy](t, all, "outbox-worker")
	monitor := find[*monitoringv1.ServiceMonitor](t, all, "outbox-worker")
	for name, s := range map[string]*metav1.LabelSelector{"the Deployment": d.Spec.Selector, "the budget": pdb.Spec.Selector, "the policy": &np.Spec.PodSelector,
		"the service": {MatchLabels: service.Spec.Selector}, "the spread": d.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector} {
		if !matches(t, s, pod) {
			t.Errorf("%s does not select the pods", name)
		}
	}
	if !matches(t, &np.Spec.PodSelector, job(t, all).Spec.Template.Labels) {
		t.Error("the policy does not hold for the migration")
	}
	if !matches(t, &monitor.Spec.Selector, service.Labels) || monitor.Spec.Endpoints[0].Port != service.Spec.Ports[0].Name {
		t.Error("the monitor does not find the service's port")
	}
	if service.Name != "outbox-worker" {
		t.Errorf("the job of the metrics is the service's name, %s; the rules know outbox-worker", service.Name)
	}
	c := d.Spec.Template.Spec.Containers[0]
	port := c.Ports[0]
	for probe, path := range map[*corev1.Probe]string{c.StartupProbe: "/livez", c.LivenessProbe: "/livez", c.ReadinessProbe: "/readyz"} {
		if probe.HTTPGet.Path != path || probe.HTTPGet.Port.String() != port.Name {
			t.Errorf("a probe asks %+v", probe.HTTPGet)
		}
	}
	if got := np.Spec.Ingress[0].Ports[0].Port.IntValue(); got != int(port.ContainerPort) || got != 9464 {
		t.Errorf("the policy lets Prometheus at %d, the port is %d", got, port.ContainerPort)
	}
}

func matches(t *testing.T, s *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return !selector.Empty() && selector.Matches(labels.Set(set))
}

func TestPostgresKeepsItsData(t *testing.T) {
	all := manifests(t, "k8s")
	s := find[*appsv1.StatefulSet](t, all, "postgresql")
	claim := s.Spec.VolumeClaimTemplates[0]
	if size := claim.Spec.Resources.Requests[corev1.ResourceStorage]; size.String() != "20Gi" {
		t.Errorf("the volume has %s", size.String())
	}
	c := s.Spec.Template.Spec.Containers[0]
	mount := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == claim.Name })
	var data string
	for _, e := range c.Env {
		if e.Name == "PGDATA" {
			data = e.Value
		}
	}
	if mount < 0 || !strings.HasPrefix(data, c.VolumeMounts[mount].MountPath+"/") {
		t.Errorf("PGDATA is %q, which is not on the volume", data)
	}
	np := find[*networkingv1.NetworkPolicy](t, all, "postgresql")
	for name, pod := range podTemplates(t) {
		if name != "postgres" && !matches(t, np.Spec.Ingress[0].From[0].PodSelector, pod.Labels) {
			t.Errorf("the policy keeps the %s from Postgres", name)
		}
	}
	// What the workers can take in all, there is.
	cm := find[*corev1.ConfigMap](t, all, "pgsagaz-config")
	pool, err := strconv.Atoi(cm.Data["PGSAGAZ_POOL_SIZE"])
	if err != nil {
		t.Fatal(err)
	}
	const ofItsOwn = 8 + 4 // River's pool, and the sessions that listen, show life and read the outbox
	hpa := find[*autoscalingv2.HorizontalPodAutoscaler](t, all, "outbox-worker")
	i := slices.IndexFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, "max_connections=") })
	there, err := strconv.Atoi(strings.TrimPrefix(c.Args[i], "max_connections="))
	if err != nil || int(hpa.Spec.MaxReplicas)*(pool+ofItsOwn) > there-10 {
		t.Errorf("%d workers with %d connections each, and Postgres takes %d (%v)", hpa.Spec.MaxReplicas, pool+ofItsOwn, there, err)
	}
}

// program is the command, built from this tree.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgsagaz")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/pgsagaz")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

type setting struct {
	Flag  string
	Value any
	From  string
}

// settings are what the program makes of these variables; it fails with what it says of values that it does not take.
func settings(t *testing.T, path string, env map[string]string) map[string]setting {
	t.Helper()
	cmd := exec.Command(path, "config", "--json")
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pgsagaz config: %v\n%s", err, errs.String())
	}
	var list struct{ Settings []setting }
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	byVariable := map[string]setting{}
	for _, s := range list.Settings {
		byVariable[s.From] = s
		byVariable[s.Flag] = s
	}
	return byVariable
}

// TestEveryKeyIsRead: what the ConfigMap and the pods set, the program reads from there, and takes.
func TestEveryKeyIsRead(t *testing.T) {
	all := manifests(t, "k8s")
	path := program(t)
	secret := find[*corev1.Secret](t, all, "pgsagaz-secrets")
	for _, name := range []string{"worker", "migration"} {
		pod := podTemplates(t)[name]
		c := pod.Spec.Containers[0]
		env := map[string]string{}
		for _, from := range c.EnvFrom {
			for k, v := range find[*corev1.ConfigMap](t, all, from.ConfigMapRef.Name).Data {
				env[k] = v
			}
		}
		volumes := map[string]string{} // what a file in the pod is, on this machine
		for _, m := range c.VolumeMounts {
			i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
			if i < 0 || pod.Spec.Volumes[i].Secret == nil {
				t.Fatalf("%s: the volume %s is no secret", name, m.Name)
			}
			for _, item := range pod.Spec.Volumes[i].Secret.Items {
				if secret.StringData[item.Key] == "" {
					t.Errorf("%s: the secret has no %s", name, item.Key)
				}
				file := filepath.Join(t.TempDir(), "secret")
				if err := os.WriteFile(file, []byte(secret.StringData[item.Key]), 0o600); err != nil {
					t.Fatal(err)
				}
				volumes[filepath.Join(m.MountPath, item.Path)] = file
			}
		}
		for _, e := range c.Env {
			switch {
			case e.ValueFrom == nil:
				env[e.Name] = e.Value
				if file := volumes[e.Value]; file != "" {
					env[e.Name] = file
				}
			case e.ValueFrom.SecretKeyRef != nil:
				ref := e.ValueFrom.SecretKeyRef
				if ref.Name != secret.Name || (ref.Optional == nil || !*ref.Optional) && secret.StringData[ref.Key] == "" {
					t.Errorf("%s: %s is of %+v", name, e.Name, ref)
				}
				env[e.Name] = map[string]string{"direct-url": secret.StringData["database-url"], "broker-url": "kafka://kafka:9092", "otlp-headers": "Authorization=Bearer%20x"}[ref.Key]
			case e.ValueFrom.FieldRef != nil:
				env[e.Name] = "outbox-worker-abcde"
			}
		}
		delete(env, "GOMEMLIMIT") // is Go's
		got := settings(t, path, env)
		for k := range env {
			if got[k].Flag == "" {
				t.Errorf("%s: nothing reads %s", name, k)
			}
		}
		if s, ok := got["--http-addr"]; ok && name == "worker" && s.Value != ":9464" {
			t.Errorf("the worker answers at %v, where no probe reaches it: set PGSAGAZ_HTTP_ADDR to :9464 in configmap.yaml", s.Value)
		}
		if err := exec.Command(path, append(c.Args, "--help")...).Run(); err != nil {
			t.Errorf("%s: pgsagaz %v: %v", name, c.Args, err)
		}
	}
}

// TestStopFitsIntoItsTime: a worker that is told to stop is not killed before it has handed back what it holds.
func TestStopFitsIntoItsTime(t *testing.T) {
	all := manifests(t, "k8s")
	cm := find[*corev1.ConfigMap](t, all, "pgsagaz-config")
	byDefault := settings(t, program(t), nil)["--grace"].Value.(string)
	pod := find[*appsv1.Deployment](t, all, "outbox-worker").Spec.Template.Spec
	for _, grace := range []string{byDefault, cm.Data["PGSAGAZ_GRACE"]} {
		d, err := time.ParseDuration(grace)
		if err != nil {
			t.Fatal(err)
		}
		// jobs.Worker: the grace, as long again (5 s at least) for steps that do not listen, 3 s to hand back.
		needed := d + max(d, 5*time.Second) + 3*time.Second
		if has := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; needed+5*time.Second > has {
			t.Errorf("a stop with a grace of %v takes up to %v, and the pod is killed after %v", d, needed, has)
		}
	}
	if pod.Containers[0].Lifecycle != nil {
		t.Error("a preStop hook takes time that is not reckoned with here")
	}
}
