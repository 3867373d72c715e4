package capture

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"mllab.local/internal/kube"
)

func TestAModelIsWhatRunsTheSamplesImageUnderItsName(t *testing.T) {
	pod := func(namespace, image string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "queue-proxy", Image: "kind.local/queue:1"}, {Name: "model", Image: image}}},
		}
	}
	const image = "kind.local/sampleapp:abc"
	app := map[string]string{"app": "model", "version": "v1"}
	knative := map[string]string{"app": "model-00002", "serving.knative.dev/service": "model"}
	for _, c := range []struct {
		name string
		q    Query
		pod  *corev1.Pod
		want string
	}{
		{"all models", Query{Image: image}, pod("team", image, app), "model"},
		{"of another build", Query{Image: image}, pod("team", "kind.local/sampleapp:def", app), "model"},
		{"by digest", Query{Image: image}, pod("team", "kind.local/sampleapp@sha256:abc", app), "model"},
		{"another program", Query{Image: image}, pod("team", "kind.local/sampleapp2:abc", app), ""},
		{"a registry with a port", Query{Image: "localhost:5000/sampleapp"}, pod("team", "localhost:5000/sampleapp:1", app), "model"},
		{"by its label", Query{Image: image, Model: "model"}, pod("team", image, app), "model"},
		{"by its Knative Service", Query{Image: image, Model: "model"}, pod("team", image, knative), "model"},
		{"by its InferenceService", Query{Image: image, Model: "model"}, pod("team", image, map[string]string{"serving.kserve.io/inferenceservice": "model"}), "model"},
		{"another name", Query{Image: image, Model: "mode"}, pod("team", image, app), ""},
		{"in its namespace", Query{Image: image, Model: "model", Namespace: "team"}, pod("team", image, app), "model"},
		{"in another namespace", Query{Image: image, Model: "model", Namespace: "team"}, pod("team2", image, app), ""},
		{"without labels", Query{Image: image}, pod("team", image, nil), "model"},
	} {
		if got := c.q.container(c.pod); got != c.want {
			t.Errorf("%s: container %q, want %q", c.name, got, c.want)
		}
	}
}

func TestFlaggersCopyOfAModelIsTheModel(t *testing.T) {
	const image = "kind.local/sampleapp:abc"
	objects := []runtime.Object{&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": map[string]any{"namespace": "team", "name": "c"},
		"spec": map[string]any{"targetRef": map[string]any{"kind": "Deployment", "name": "model"}},
	}}}
	for _, at := range []string{"team/model", "team/model-primary", "team/eu-primary", "other/model-primary"} {
		namespace, app, _ := strings.Cut(at, "/")
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app, UID: "u", Labels: map[string]string{"app": app}},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "model", Image: image}}},
			Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "model", ContainerID: "containerd://1"}}},
		})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a kubelet
		if strings.HasSuffix(r.URL.Path, "/") {
			fmt.Fprint(w, `<a href="0.log">0.log</a>`)
			return
		}
		fmt.Fprintf(w, "2026-11-29T13:30:00.1Z stdout F {\"msg\":\"captured\",\"pod\":%q}\n", strings.Split(r.URL.Path, "_")[1])
	}))
	defer server.Close()
	k, err := kube.New(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	k.Client = fake.NewClientBuilder().WithRuntimeObjects(objects...).Build()
	for model, want := range map[string][]string{
		"model": {"team/model", "team/model-primary"}, "model-primary": {"other/model-primary", "team/model-primary"}, "eu": nil,
	} {
		var got []string
		if err := Read(t.Context(), k, Query{Image: image, Model: model}, func(line []byte) error {
			var c struct{ Namespace, Pod string }
			err := json.Unmarshal(line, &c)
			got = append(got, c.Namespace+"/"+c.Pod)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("of %s: %q, want %q", model, got, want)
		}
	}
}

func TestACapturedRequestIsTakenByItsVersion(t *testing.T) {
	const line = `{"time":"2026-11-29T13:30:00.1Z","level":"INFO","msg":"captured","id":"a","target":"v2","revision":"model-00002","pod":"p","shadow":false,"path":"/","status":200,"ms":1.2,"input":null,"output":"v2\n"}`
	for version, want := range map[string]bool{"": true, "v2": true, "model-00002": true, "v1": false, "model-0000": false, "a": false} {
		if got := (Query{Version: version}).takes([]byte(line)); got != want {
			t.Errorf("--version %q: %v", version, got)
		}
	}
	for _, other := range []string{
		"", "panic: no model", `{"msg":"request","input":"{\"msg\":\"captured\"}"}`, `{"msg":"request","x":{"msg":"captured"}}`,
		line[:len(line)-1], line + "}", "x" + line, `[` + line + `]`,
	} {
		if (Query{}).takes([]byte(other)) {
			t.Errorf("%q is taken", other)
		}
	}
}
