package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// object is one document of a manifest.
type object struct {
	file string
	meta metav1.ObjectMeta
	kind string
	body any // of the type that Kubernetes decodes it into
}

func (o object) String() string { return fmt.Sprintf("%s: %s %s", o.file, o.kind, o.meta.Name) }

// kinds are all that k8s/ may hold, by API version and kind.
var kinds = map[string]func() any{
	"v1 Namespace":                            func() any { return &corev1.Namespace{} },
	"v1 ConfigMap":                            func() any { return &corev1.ConfigMap{} },
	"v1 Secret":                               func() any { return &corev1.Secret{} },
	"v1 Service":                              func() any { return &corev1.Service{} },
	"v1 ServiceAccount":                       func() any { return &corev1.ServiceAccount{} },
	"apps/v1 Deployment":                      func() any { return &appsv1.Deployment{} },
	"apps/v1 StatefulSet":                     func() any { return &appsv1.StatefulSet{} },
	"batch/v1 Job":                            func() any { return &batchv1.Job{} },
	"autoscaling/v2 HorizontalPodAutoscaler":  func() any { return &autoscalingv2.HorizontalPodAutoscaler{} },
	"policy/v1 PodDisruptionBudget":           func() any { return &policyv1.PodDisruptionBudget{} },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return &networkingv1.NetworkPolicy{} },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return &monitoringv1.ServiceMonitor{} },
	"monitoring.coreos.com/v1 PrometheusRule": func() any { return &monitoringv1.PrometheusRule{} },
	"keda.sh/v1alpha1 ScaledObject":           func() any { return &scaledObject{} },
	"keda.sh/v1alpha1 TriggerAuthentication":  func() any { return &triggerAuthentication{} },
}

// The fields of KEDA's types that keda.yaml may use. KEDA's own module brings the clients of all that it scales by.
type (
	scaledObject struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			ScaleTargetRef struct {
				Name string `json:"name"`
			} `json:"scaleTargetRef"`
			PollingInterval *int32 `json:"pollingInterval,omitempty"`
			CooldownPeriod  *int32 `json:"cooldownPeriod,omitempty"`
			MinReplicaCount *int32 `json:"minReplicaCount,omitempty"`
			MaxReplicaCount *int32 `json:"maxReplicaCount,omitempty"`
			Fallback        *struct {
				FailureThreshold int32 `json:"failureThreshold"`
				Replicas         int32 `json:"replicas"`
			} `json:"fallback,omitempty"`
			Advanced *struct {
				HorizontalPodAutoscalerConfig *struct {
					Name     string                                         `json:"name,omitempty"`
					Behavior *autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior,omitempty"`
				} `json:"horizontalPodAutoscalerConfig,omitempty"`
			} `json:"advanced,omitempty"`
			Triggers []struct {
				Type              string            `json:"type"`
				Name              string            `json:"name,omitempty"`
				Metadata          map[string]string `json:"metadata"`
				AuthenticationRef *struct {
					Name string `json:"name"`
				} `json:"authenticationRef,omitempty"`
			} `json:"triggers"`
		} `json:"spec"`
	}
	triggerAuthentication struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			SecretTargetRef []struct {
				Parameter string `json:"parameter"`
				Name      string `json:"name"`
				Key       string `json:"key"`
			} `json:"secretTargetRef"`
		} `json:"spec"`
	}
)

// manifests decodes the files as `kubectl apply -f DIR` takes them: those whose names end so, and none below. A field that the type
// has not, or that is there twice, is an error.
func manifests(t *testing.T, dir string) []object {
	t.Helper()
	var files []string
	for _, ending := range []string{"yaml", "yml", "json"} {
		found, err := filepath.Glob(filepath.Join(root, dir, "*."+ending))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Fatalf("%s holds no manifests", dir)
	}
	slices.Sort(files)
	var all []object
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b)))
		for {
			doc, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			o, err := decode(doc)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			o.file = filepath.Base(file)
			all = append(all, o)
		}
	}
	return all
}

func decode(doc []byte) (object, error) {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return object{}, err
	}
	kind := head.APIVersion + " " + head.Kind
	body, known := kinds[kind]
	if !known {
		return object{}, fmt.Errorf("%q is no kind that is known here; a file that is no manifest stops kubectl apply -f", kind)
	}
	o := object{meta: head.Metadata, kind: head.Kind, body: body()}
	asJSON, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return object{}, fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
	}
	strict, err := kjson.UnmarshalStrict(asJSON, o.body) // as the API server does
	if err := errors.Join(append(strict, err)...); err != nil {
		return object{}, fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
	}
	return o, nil
}

// find is the one object of that type and name.
func find[T any](t *testing.T, all []object, name string) T {
	t.Helper()
	for _, o := range all {
		if body, ok := o.body.(T); ok && o.meta.Name == name {
			return body
		}
	}
	var none T
	t.Fatalf("there is no %T %s", none, name)
	return none
}

func TestManifestsDecodeStrictly(t *testing.T) {
	seen := map[string]string{}
	names := map[string]bool{}
	for _, o := range manifests(t, "k8s") {
		names[o.file] = true
		id := o.kind + "/" + o.meta.Namespace + "/" + o.meta.Name
		if other := seen[id]; other != "" {
			t.Errorf("%s is in %s, too", o, other)
		}
		seen[id] = o.file
		if o.kind != "Namespace" && o.meta.Namespace != "pgsagaz" {
			t.Errorf("%s is in the namespace %q", o, o.meta.Namespace)
		}
		if o.meta.Labels["app.kubernetes.io/part-of"] != "pgsagaz" {
			t.Errorf("%s has no label that says what it is part of", o)
		}
	}
	for _, name := range []string{"outbox-worker.yaml", "postgresql.yaml", "migration-job.yaml", "configmap.yaml", "secrets-example.yaml",
		"prometheus-monitoring.yaml", "keda.yaml"} {
		if !names[name] {
			t.Errorf("k8s/%s is missing", name)
		}
	}
}

// A test of the test: mistakes that kubectl lets pass on its way to the server.
func TestMistakesAreRefused(t *testing.T) {
	for doc, says := range map[string]string{
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {A: \"1\"}\nbinary: {}": `unknown field "binary"`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {A: 1}":                 "cannot unmarshal number",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {A: \"1\", A: \"2\"}":   `"A" already set`,
		"apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: a}":                    "no kind that is known",
		"{\"title\": \"a dashboard\"}":                                                       "no kind that is known",
	} {
		if o, err := decode([]byte(doc)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\nis taken for %v, error %v, want one that says %q", doc, o, err, says)
		}
	}
}
