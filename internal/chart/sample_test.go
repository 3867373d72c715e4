package chart

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	serving "knative.dev/serving/pkg/apis/serving/v1"

	"mllab.local/internal/kube"
)

// sample renders the sample's chart and reads it as Knative does: no unknown field, every rule of the webhook kept.
func sample(t *testing.T, values map[string]any) *serving.Service {
	t.Helper()
	objs, err := Render(os.DirFS("../../manifests/charts/sample"), "blue", "mllab-canary", values)
	if err != nil {
		t.Fatal(err)
	}
	if len(objs) != 1 {
		t.Fatalf("%d objects", len(objs))
	}
	if v := objs[0].GetAPIVersion(); v != "serving.knative.dev/v1" {
		t.Fatalf("apiVersion %s", v)
	}
	s := &serving.Service{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objs[0].Object, s, true); err != nil {
		t.Fatal(err)
	}
	checked := s.DeepCopy()
	checked.SetDefaults(t.Context())
	if err := checked.Validate(t.Context()); err != nil {
		t.Errorf("Knative refuses it: %v", err)
	}
	return s
}

const image = "kind.local/sampleapp:3f1c"

func TestTheSampleChartNeedsOnlyAnImage(t *testing.T) {
	s := sample(t, map[string]any{"image": image})
	if kube.Name(s) != "Service/mllab-canary/blue" {
		t.Errorf("it is named %s", kube.Name(s))
	}
	if want := map[string]string{
		"app.kubernetes.io/name": "sample", "app.kubernetes.io/instance": "blue", "app.kubernetes.io/version": "0.1.0",
		"app.kubernetes.io/component": "model", "app.kubernetes.io/part-of": "mllab", "app.kubernetes.io/managed-by": "mllab",
	}; !maps.Equal(s.Labels, want) {
		t.Errorf("labels %v", s.Labels)
	}
	pod := s.Spec.Template
	if len(pod.Annotations) != 0 {
		t.Errorf("annotations %v without being asked", pod.Annotations)
	}
	c := pod.Spec.Containers[0]
	if c.Image != image || len(pod.Spec.Containers) != 1 {
		t.Errorf("containers %v", pod.Spec.Containers)
	}
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	if !maps.Equal(env, map[string]string{"TARGET": "world", "DRAIN": "0s"}) {
		t.Errorf("environment %v", env)
	}
	if cpu := c.Resources.Requests.Cpu(); cpu.Cmp(resource.MustParse("10m")) < 0 || cpu.Cmp(resource.MustParse("25m")) > 0 {
		t.Errorf("requests %s CPU", cpu)
	}
	if memory := c.Resources.Requests.Memory(); memory.Cmp(resource.MustParse("32Mi")) != 0 {
		t.Errorf("requests %s memory", memory)
	}
	if c.ReadinessProbe == nil || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Errorf("readiness %v", c.ReadinessProbe)
	}
	sc := c.SecurityContext
	if sc == nil || !*sc.RunAsNonRoot || *sc.RunAsUser == 0 || !*sc.ReadOnlyRootFilesystem || *sc.AllowPrivilegeEscalation ||
		!slices.Contains(sc.Capabilities.Drop, "ALL") || sc.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("security context %+v", sc)
	}
}

func TestTheSampleChartTakesNameTargetScaleAndEnvironment(t *testing.T) {
	s := sample(t, map[string]any{
		"image": image, "name": "model", "target": `v2 "blue": #1`, "minScale": 0, "maxScale": 3,
		"env": map[string]any{"FAIL_PERCENT": "10", "DRAIN": "1s"},
	})
	if s.Name != "model" || s.Namespace != "mllab-canary" || s.Labels["app.kubernetes.io/instance"] != "blue" {
		t.Errorf("%s/%s, labels %v", s.Namespace, s.Name, s.Labels)
	}
	pod := s.Spec.Template
	if want := map[string]string{"autoscaling.knative.dev/min-scale": "0", "autoscaling.knative.dev/max-scale": "3"}; !maps.Equal(pod.Annotations, want) {
		t.Errorf("annotations %v", pod.Annotations)
	}
	var env []string
	for _, e := range pod.Spec.Containers[0].Env {
		env = append(env, e.Name+"="+e.Value)
	}
	if want := []string{`TARGET=v2 "blue": #1`, "DRAIN=1s", "FAIL_PERCENT=10"}; !slices.Equal(env, want) {
		t.Errorf("environment %q", env)
	}
	if only := sample(t, map[string]any{"image": image, "minScale": 1}).Spec.Template.Annotations; !maps.Equal(only, map[string]string{"autoscaling.knative.dev/min-scale": "1"}) {
		t.Errorf("annotations %v with minScale alone", only)
	}
}

func TestTheSampleChartRefusesAWrongValue(t *testing.T) {
	for _, c := range []struct {
		name   string
		values map[string]any
		want   string
	}{
		{"no image", map[string]any{}, "/image"},
		{"an image that is no text", map[string]any{"image": 7}, "/image"},
		{"an image with spaces", map[string]any{"image": "a b"}, "/image"},
		{"a misspelt value", map[string]any{"image": image, "traget": "v2"}, "traget"},
		{"an empty target", map[string]any{"image": image, "target": ""}, "/target"},
		{"a target no header can hold", map[string]any{"image": image, "target": "a\nb"}, "/target"},
		{"a name with capitals", map[string]any{"image": image, "name": "Model"}, "/name"},
		{"a scale in words", map[string]any{"image": image, "minScale": "one"}, "/minScale"},
		{"half a pod", map[string]any{"image": image, "minScale": 0.5}, "/minScale"},
		{"no pod at most", map[string]any{"image": image, "maxScale": 0}, "/maxScale"},
		{"more at least than at most", map[string]any{"image": image, "minScale": 3, "maxScale": 2}, "minScale 3 is above maxScale 2"},
		{"TARGET twice", map[string]any{"image": image, "env": map[string]any{"TARGET": "v2"}}, "'TARGET'"},
		{"a number as environment", map[string]any{"image": image, "env": map[string]any{"FAIL_PERCENT": 10}}, "/env/FAIL_PERCENT"},
		{"an unknown resource", map[string]any{"image": image, "resources": map[string]any{"request": map[string]any{}}}, "/resources"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Render(os.DirFS("../../manifests/charts/sample"), "blue", "mllab-canary", c.values)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "chart sample") {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}
