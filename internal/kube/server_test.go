//go:build envtest

// These tests talk to a real kube-apiserver and etcd: KUBEBUILDER_ASSETS names the directory that holds both.
// No controller and no kubelet runs, so the tests write what those would write.

package kube

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// newServer returns an API server and its etcd that do not run yet.
func newServer(t *testing.T) *envtest.Environment {
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	for _, file := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(dir, file)); dir == "" || err != nil {
			t.Fatalf("set KUBEBUILDER_ASSETS to a directory that holds kube-apiserver and etcd; it is %q", dir)
		}
	}
	return &envtest.Environment{BinaryAssetsDirectory: dir, ControlPlaneStartTimeout: 3 * time.Minute, ControlPlaneStopTimeout: time.Minute}
}

// start starts a server, and stops it when the test ends.
func start(t *testing.T, server *envtest.Environment) *Client {
	cfg, err := server.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg.QPS, cfg.Burst = 0, 0 // as a kubeconfig gives them
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	must(t, c.Serves(t.Context()))
	must(t, c.core.RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()) // envtest returns when the server is ready
	return c
}

func TestAgainstARealAPIServer(t *testing.T) {
	c := start(t, newServer(t))
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Client)
	}{
		{"a second apply writes nothing", secondApplyWritesNothing},
		{"a second apply of Knative writes nothing, whatever its webhook has written", secondApplyOfKnative},
		{"hundreds of objects take seconds", hundredsTakeSeconds},
		{"Kubernetes' own roles are those that a lab's etcd has", rolesAreKubernetesOwn},
		{"a CRD is established when its apply returns", crdIsEstablished},
		{"a new kind can be watched when the apply of its CRD returns", newKindCanBeWatched},
		{"what others change in our fields is put back, their own fields stay", driftIsPutBack},
		{"drift is what somebody else changed or removed, and is not written", driftIsNamed},
		{"whatever a person does to an object is seen without a dry run of the others", changesAreSeen},
		{"drift is told field by field, with who made it and whether it is undone", driftIsToldByField},
		{"only leases that nobody renews any more are dropped", deadLeasesAreDropped},
		{"a webhook configuration still takes our own changes", webhookConfigurationTakesOurChanges},
		{"an apply refused by a webhook that is not up waits for it", applyWaitsForAWebhook},
		{"an apply waits for an object that goes", applyWaitsForADeletion},
		{"an apply that the server refuses for good fails at once", applyFailsAtOnce},
		{"a wait that times out keeps its last reason", waitKeepsItsReason},
		{"a reason is told once, and again only when it changes", reasonsAreToldOnce},
		{"a wait ends when the last object is ready", waitEndsWhenReady},
		{"a wait outlives watches that expire", waitOutlivesItsWatches},
		{"a wait fails at once on an image that does not exist", waitFailsOnAMissingImage},
		{"a wait fails on a crash loop with the last log lines of the run before", waitFailsOnACrashLoop},
		{"a wait ignores the pods of the last template", waitIgnoresOldPods},
		{"a delete waits until finalizers let go", deleteWaitsForFinalizers},
		{"a namespace is gone when its content is, and says what remains", deleteNamespace},
		{"a watch tells what changes after its begin, and ends when it is stopped", watchTellsChanges},
		{"a log is read with what was rotated, in the order of time", logsAreRead},
		{"a log is followed from pod to pod and from run to run, each line once", logsAreFollowed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

func file(t *testing.T, name string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, string(text))
}

// due is a context whose time is up when end is called, and not by a clock: what must be seen before is, however slow the
// machine is.
type due struct {
	context.Context
	up  chan struct{}
	end func()
}

// newDue returns a due that ends after a minute at the latest.
func newDue(t *testing.T) *due {
	up := make(chan struct{})
	d := &due{t.Context(), up, sync.OnceFunc(func() { close(up) })}
	limit := time.AfterFunc(time.Minute, d.end)
	t.Cleanup(func() { limit.Stop() })
	return d
}

func (d *due) Done() <-chan struct{} { return d.up }

func (d *due) Err() error {
	select {
	case <-d.up:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// afterTries returns a Client and a context that ends when an apply of one object by this Client begins its third try.
func afterTries(t *testing.T, c *Client) (ctx context.Context, tries *Client) {
	d := newDue(t)
	var reads atomic.Int32 // each try begins with one
	counting := *c
	counting.Client = interceptor.NewClient(c.watcher, interceptor.Funcs{
		Get: func(ctx context.Context, inner client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if reads.Add(1) == 3 {
				d.end()
			}
			return inner.Get(ctx, key, obj, opts...)
		},
	})
	return d, &counting
}

func apply(t *testing.T, c *Client, objs []*unstructured.Unstructured) []Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	changes, err := c.Apply(ctx, objs)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("applied %d objects in %s", len(objs), time.Since(start).Round(time.Millisecond))
	return changes
}

// namespace makes a namespace for one test.
func namespace(t *testing.T, c *Client, name string) {
	t.Helper()
	must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, changes []Change, n int, action string) {
	t.Helper()
	if len(changes) != n {
		t.Errorf("%d changes, want %d", len(changes), n)
	}
	for _, change := range changes {
		if change.Action != action {
			t.Errorf("%s was %s, want %s", change.Object, change.Action, action)
		}
	}
}

func versions(t *testing.T, c *Client, objs []*unstructured.Unstructured) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, obj := range objs {
		found[Name(obj)] = live(t, c, obj).GetResourceVersion()
	}
	return found
}

func live(t *testing.T, c *Client, obj *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	got := &unstructured.Unstructured{}
	got.SetGroupVersionKind(obj.GroupVersionKind())
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(obj), got))
	return got
}

// applyAgain applies objs and fails unless that left every one of them alone.
func applyAgain(t *testing.T, c *Client, objs []*unstructured.Unstructured) {
	t.Helper()
	before := versions(t, c, objs)
	expect(t, apply(t, c, objs), len(objs), "unchanged")
	for name, version := range versions(t, c, objs) {
		if version != before[name] {
			t.Errorf("%s was written: version %s became %s", name, before[name], version)
		}
	}
}

// controller is the field manager of whatever is not mllab.
const controller = client.FieldOwner("controller")

// controllersRun writes what upstream leaves to its controllers, as they write it: read, fill in, update.
// Knative's webhook: https://github.com/knative/pkg/blob/main/webhook/resourcesemantics/defaulting/defaulting.go
func controllersRun(t *testing.T, c *Client, objs []*unstructured.Unstructured) {
	t.Helper()
	ca := base64.StdEncoding.EncodeToString(certificate(t))
	for _, obj := range objs {
		now := live(t, c, obj)
		switch now.GetKind() {
		case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
			hooks, _, err := unstructured.NestedSlice(now.Object, "webhooks")
			must(t, err)
			for _, hook := range hooks {
				hook := hook.(map[string]any)
				must(t, unstructured.SetNestedField(hook, ca, "clientConfig", "caBundle"))
				must(t, unstructured.SetNestedField(hook, "/admit", "clientConfig", "service", "path"))
				hook["failurePolicy"] = map[any]string{"Ignore": "Fail", "Fail": "Ignore"}[hook["failurePolicy"]]
				hook["namespaceSelector"] = map[string]any{"matchExpressions": []any{map[string]any{"key": "webhooks.knative.dev/exclude", "operator": "DoesNotExist"}}}
				hook["rules"] = []any{map[string]any{"apiGroups": []any{"other.mllab.test"}, "apiVersions": []any{"v1"}, "operations": []any{"CREATE"}, "resources": []any{"things", "things/status"}}}
			}
			must(t, unstructured.SetNestedSlice(now.Object, hooks, "webhooks"))
		case "ClusterRole":
			if now.Object["aggregationRule"] == nil {
				continue
			}
			now.Object["rules"] = []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"pods"}, "verbs": []any{"get"}}}
		case "Secret":
			must(t, unstructured.SetNestedField(now.Object, "MQ==", "data", "filled"))
		case "CustomResourceDefinition":
			if _, converts, _ := unstructured.NestedMap(now.Object, "spec", "conversion", "webhook"); !converts {
				continue
			}
			must(t, unstructured.SetNestedField(now.Object, ca, "spec", "conversion", "webhook", "clientConfig", "caBundle"))
		case "Deployment":
			if _, ours, _ := unstructured.NestedInt64(obj.Object, "spec", "replicas"); ours {
				continue
			}
			// an autoscaler
			must(t, unstructured.SetNestedField(now.Object, int64(3), "spec", "replicas"))
		default:
			continue
		}
		must(t, c.Update(t.Context(), now, controller))
	}
}

// certificate makes a CA bundle that the API server accepts.
func certificate(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func secondApplyWritesNothing(t *testing.T, c *Client) {
	objs := file(t, "testdata/lab.yaml")
	expect(t, apply(t, c, objs), len(objs), "created")
	applyAgain(t, c, objs)
	controllersRun(t, c, objs)
	applyAgain(t, c, objs)
	if !reflect.DeepEqual(objs, file(t, "testdata/lab.yaml")) {
		t.Error("the caller's objects were written to")
	}
}

func secondApplyOfKnative(t *testing.T, c *Client) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "knative.dev/serving").Output()
	must(t, err)
	var all, objs []*unstructured.Unstructured
	must(t, filepath.WalkDir(filepath.Join(strings.TrimSpace(string(out)), "config", "core"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".yaml" {
			all = append(all, file(t, path)...)
		}
		return err
	}))
	defined := map[schema.GroupKind]bool{}
	for _, obj := range all {
		defined[definedKind(obj)] = true
	}
	for _, obj := range all {
		// Some CRDs are links to other modules, which a module zip does not hold.
		if stage(obj) != customs || defined[obj.GroupVersionKind().GroupKind()] {
			objs = append(objs, obj)
		}
	}
	if len(objs) < 40 {
		t.Fatalf("found only %d objects", len(objs))
	}
	expect(t, apply(t, c, objs), len(objs), "created")
	controllersRun(t, c, objs)
	applyAgain(t, c, objs)
}

func hundredsTakeSeconds(t *testing.T, c *Client) {
	objs := decode(t, "{apiVersion: v1, kind: Namespace, metadata: {name: many}}")
	for i := range 200 {
		objs = append(objs, decode(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: c%d, namespace: many}, data: {n: '%d'}}", i, i))...)
	}
	start := time.Now()
	expect(t, apply(t, c, objs), len(objs), "created")
	expect(t, apply(t, c, objs), len(objs), "unchanged")
	if took := time.Since(start); took > 30*time.Second { // about 1 s on an idle machine; at client-go's default of 5 requests a second, minutes
		t.Errorf("two applies of %d objects took %s", len(objs), took)
	}
}

func crdIsEstablished(t *testing.T, c *Client) {
	crd := file(t, "testdata/lab.yaml")[1]
	for i := range 5 {
		group := fmt.Sprintf("g%d.mllab.test", i)
		crd.SetName("widgets." + group)
		must(t, unstructured.SetNestedField(crd.Object, group, "spec", "group"))
		apply(t, c, []*unstructured.Unstructured{crd})
		if ready, why := condition(live(t, c, crd), "Established"); !ready {
			t.Errorf("%s: %s", Name(crd), why)
		}
	}
}

// A controller's first request is a watch; refused, it asks again after a second.
func newKindCanBeWatched(t *testing.T, c *Client) {
	crd := file(t, "testdata/lab.yaml")[1]
	for i := range 5 {
		group := fmt.Sprintf("watched%d.mllab.test", i)
		crd.SetName("widgets." + group)
		must(t, unstructured.SetNestedField(crd.Object, group, "spec", "group"))
		apply(t, c, []*unstructured.Unstructured{crd})
		watch := c.core.RESTClient().Get().AbsPath("/apis", group, "v1", "widgets").Param("watch", "true").Param("timeoutSeconds", "1").
			Param("resourceVersionMatch", "NotOlderThan").Param("sendInitialEvents", "true").Param("allowWatchBookmarks", "true")
		if err := watch.MaxRetries(0).Do(t.Context()).Error(); err != nil {
			t.Errorf("%s: %v", Name(crd), err)
		}
	}
}

// The applier of these objects takes over what kubectl writes, as Flux does.
func driftIsToldByField(t *testing.T, c *Client) {
	const applier = client.FieldOwner(fluxOwner)
	namespace(t, c, "tampered")
	objs := decode(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: tampered, labels: {ours: "1"}}
data: {color: green, size: "1", quiet: q}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: tampered}
stringData: {password: "1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: tampered}
spec:
  replicas: 1
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: model, image: a, env: [{name: A, value: "1"}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: gone, namespace: tampered}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: quiet, namespace: tampered}
---
apiVersion: example.com/v1
kind: Unknown
metadata: {name: x, namespace: tampered}
`)
	for _, obj := range objs[:5] {
		must(t, c.Client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(obj.DeepCopy()), client.ForceOwnership, applier))
	}
	drift := func() map[string]Drifted {
		t.Helper()
		all, err := c.DriftOf(t.Context(), objs)
		must(t, err)
		byName := map[string]Drifted{}
		for _, d := range all {
			byName[d.Object] = d
		}
		return byName
	}
	if all := drift(); len(all) != 1 || !strings.Contains(all["Unknown/tampered/x"].Error, "no matches for kind") {
		t.Errorf("before anybody did anything: %+v", all)
	}
	patch := func(obj *unstructured.Unstructured, by, text string, sub ...client.SubResourcePatchOption) {
		t.Helper()
		p := client.RawPatch(types.StrategicMergePatchType, []byte(text))
		if len(sub) > 0 {
			must(t, c.Status().Patch(t.Context(), obj.DeepCopy(), p, append(sub, client.FieldOwner(by))...))
			return
		}
		must(t, c.Patch(t.Context(), obj.DeepCopy(), p, client.FieldOwner(by)))
	}
	patch(objs[0], "kubectl-patch", `{"metadata":{"labels":{"theirs":"x"}},"data":{"color":"red","more":"m","size":null}}`)
	patch(objs[1], "robot", `{"stringData":{"password":"2"}}`)
	patch(objs[2], "kubectl-set", `{"spec":{"template":{"spec":{"containers":[{"name":"model","env":[{"name":"B","value":"2"}]},{"name":"side","image":"s"}]}}}}`)
	patch(objs[2], "robot", `{"metadata":{"annotations":{"robot":"1"}},"spec":{"replicas":3,"minReadySeconds":1}}`)
	patch(objs[2], "its-controller", `{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}}}`)
	patch(objs[2], "its-controller", `{"status":{"observedGeneration":1}}`, client.FieldOwner("its-controller"))
	must(t, c.Client.Delete(t.Context(), objs[3].DeepCopy()))
	got := drift()
	if !got["ConfigMap/tampered/gone"].Missing || len(got) != 5 {
		t.Errorf("%+v", got)
	}
	for _, tc := range []struct {
		object string
		fields []DriftedField
	}{
		{"ConfigMap/tampered/a", []DriftedField{
			{Path: "data.color", Wished: "green", Live: "red", Manager: "kubectl-patch", Undone: true},
			{Path: "data.more", Live: "m", Manager: "kubectl-patch", Undone: true},
			{Path: "data.size", Wished: "1", Undone: true}, // nobody holds what is not there
			{Path: "metadata.labels.theirs", Live: "x", Manager: "kubectl-patch", Undone: true},
		}},
		{"Secret/tampered/s", []DriftedField{{Path: "data.password", Wished: "***", Live: "***", Manager: "robot", Undone: true}}},
		{"Deployment/tampered/d", []DriftedField{
			{Path: "metadata.annotations.robot", Live: "1", Manager: "robot"},
			{Path: "spec.minReadySeconds", Live: int64(1), Manager: "robot"},
			{Path: "spec.replicas", Wished: int64(1), Live: int64(3), Manager: "robot", Undone: true},
			{Path: "spec.template.spec.containers[model].env[B]", Live: map[string]any{"name": "B", "value": "2"}, Manager: "kubectl-set", Undone: true},
			{Path: "spec.template.spec.containers[side]", Manager: "kubectl-set", Undone: true},
		}},
	} {
		fields := got[tc.object].Fields
		for i := range fields {
			if f := &fields[i]; f.Manager != "" {
				if f.When == nil || time.Since(*f.When) > time.Minute {
					t.Errorf("%s: %s was written at %v", tc.object, f.Path, f.When)
				}
				f.When = nil
			}
			if strings.HasSuffix(fields[i].Path, "[side]") {
				fields[i].Live = nil // has defaults, too
			}
		}
		if !reflect.DeepEqual(fields, tc.fields) {
			t.Errorf("%s differs in\n%+v\nwant\n%+v", tc.object, fields, tc.fields)
		}
	}
	if _, said := got["ConfigMap/tampered/quiet"]; said {
		t.Errorf("nobody touched %+v", got["ConfigMap/tampered/quiet"])
	}
	if now := live(t, c, objs[0]); now.Object["data"].(map[string]any)["color"] != "red" {
		t.Error("the comparison has written")
	}
}

func driftIsPutBack(t *testing.T, c *Client) {
	namespace(t, c, "drift")
	objs := decode(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: drift, labels: {ours: "1"}}
data: {ours: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: quiet, namespace: drift}
data: {ours: "1"}
`)
	apply(t, c, objs)
	now := live(t, c, objs[0])
	must(t, unstructured.SetNestedStringMap(now.Object, map[string]string{"ours": "2", "theirs": "3"}, "data"))
	now.SetLabels(map[string]string{"ours": "2", "theirs": "3"})
	must(t, c.Update(t.Context(), now, controller))
	changes := apply(t, c, objs)
	want := []Change{{"ConfigMap/drift/a", "configured"}, {"ConfigMap/drift/quiet", "unchanged"}}
	if !slices.Equal(changes, want) {
		t.Errorf("changes %v, want %v", changes, want)
	}
	now = live(t, c, objs[0])
	data, _, _ := unstructured.NestedStringMap(now.Object, "data")
	both := map[string]string{"ours": "1", "theirs": "3"}
	if !maps.Equal(data, both) || !maps.Equal(now.GetLabels(), both) {
		t.Errorf("data %v, labels %v; want %v in both", data, now.GetLabels(), both)
	}
}

// Each change is made to objects that need no dry run, and the next apply must say what a dry run would.
func applyWaitsForADeletion(t *testing.T, c *Client) {
	namespace(t, c, "going")
	objs := decode(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: going, finalizers: [mllab.test/hold]}}")
	apply(t, c, objs)
	must(t, c.Client.Delete(t.Context(), objs[0].DeepCopy()))
	ctx, tries := afterTries(t, c)
	if _, err := tries.Apply(ctx, objs); err == nil || timeless(err) != "ConfigMap/going/a: timeout after N (last: it is being deleted)" {
		t.Errorf("error %v", err)
	}
	held := live(t, c, objs[0])
	held.SetFinalizers(nil)
	must(t, c.Update(t.Context(), held))
	objs[0].SetFinalizers(nil)
	expect(t, apply(t, c, objs), 1, "created")
}

func changesAreSeen(t *testing.T, c *Client) {
	const text = `
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: seen, labels: {ours: "1"}}
data: {ours: "1", more: "2"}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: seen}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: seen}
spec:
  replicas: 1
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      containers:
      - name: a
        image: a
        args: [one, two]
        env: [{name: A, value: "1"}, {name: B, value: "2"}, {name: NONE, value: ""}]
        ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]
        volumeMounts: [{name: v, mountPath: /v}]
      volumes: [{name: v, emptyDir: {}}]
`
	const configMap, service, deployment = 0, 1, 2
	namespace(t, c, "seen")
	kubectl := client.FieldOwner("kubectl-edit")
	merge := func(text string) func(*unstructured.Unstructured) error {
		return func(o *unstructured.Unstructured) error {
			return c.Patch(t.Context(), o, client.RawPatch(types.StrategicMergePatchType, []byte(text)), kubectl)
		}
	}
	replace := func(text string) func(*unstructured.Unstructured) error {
		return func(o *unstructured.Unstructured) error {
			return c.Patch(t.Context(), o, client.RawPatch(types.JSONPatchType, []byte(text)), kubectl)
		}
	}
	applyAs := func(manager, text string) func(*unstructured.Unstructured) error {
		return func(*unstructured.Unstructured) error {
			return c.Client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(decode(t, text)[0]), client.ForceOwnership, client.FieldOwner(manager))
		}
	}
	set := func(v any, at ...string) func(*unstructured.Unstructured) error {
		return func(o *unstructured.Unstructured) error { return unstructured.SetNestedField(o.Object, v, at...) }
	}
	remove := func(at ...string) func(*unstructured.Unstructured) error {
		return func(o *unstructured.Unstructured) error { unstructured.RemoveNestedField(o.Object, at...); return nil }
	}
	crds := file(t, "testdata/lab.yaml")[1:2]
	must(t, unstructured.SetNestedField(crds[0].Object, "upstream writes it down", "status", "ignored"))
	apply(t, c, crds)
	if ready, err := prepare(crds[0], nil); err != nil || !hasApplied(owner, ready, live(t, c, crds[0])) {
		t.Errorf("a CRD with a status needs a dry run: %v", err)
	}
	for _, tc := range []struct {
		name   string
		object int
		theirs func(live *unstructured.Unstructured) error // what somebody does to the cluster's object
		ours   func(obj *unstructured.Unstructured) error  // or what we change in our own
		want   string
	}{
		{"a value is edited", configMap, merge(`{"data":{"ours":"x"}}`), nil, "configured"},
		{"a value is removed", configMap, merge(`{"data":{"ours":null}}`), nil, "configured"},
		{"all values are removed", configMap, merge(`{"data":null}`), nil, "configured"},
		{"an empty value is filled", deployment, merge(`{"spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"NONE","value":"x"}]}]}}}}`), nil, "configured"},
		{"a label is edited", configMap, merge(`{"metadata":{"labels":{"ours":"x"}}}`), nil, "configured"},
		{"a label is removed", configMap, merge(`{"metadata":{"labels":null}}`), nil, "configured"},
		{"a value is added", configMap, merge(`{"data":{"theirs":"x"}}`), nil, "unchanged"},
		{"another manager takes a value and keeps it", configMap, applyAs("robot", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: seen}, data: {ours: '1'}}"), nil, "unchanged"},
		{"another manager takes a value and changes it", configMap, applyAs("robot", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: seen}, data: {ours: x}}"), nil, "configured"},
		{"somebody applies less in our name", configMap, applyAs(owner, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: seen}, data: {ours: '1'}}"), nil, "configured"},
		{"somebody applies more in our name", configMap, applyAs(owner, text[:strings.Index(text, "more")]+"new: x, "+text[strings.Index(text, "more"):strings.Index(text, "---")]), nil, "configured"},
		{"the managed fields are emptied", configMap, replace(`[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]`), nil, "unchanged"},
		{"the object is removed", configMap, func(o *unstructured.Unstructured) error { return c.Client.Delete(t.Context(), o) }, nil, "created"},
		{"a port is edited", service, merge(`{"spec":{"ports":[{"port":80,"targetPort":1}]}}`), nil, "configured"},
		{"a selector is edited", service, merge(`{"spec":{"selector":{"app":"x"}}}`), nil, "configured"},
		{"an image is edited", deployment, merge(`{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"x"}]}}}}`), nil, "configured"},
		{"an argument is added", deployment, merge(`{"spec":{"template":{"spec":{"containers":[{"name":"a","args":["one","two","three"]}]}}}}`), nil, "configured"},
		{"a variable is removed", deployment, merge(`{"spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"A","$patch":"delete"}]}]}}}}`), nil, "configured"},
		{"a variable is added", deployment, merge(`{"spec":{"template":{"spec":{"containers":[{"name":"a","env":[{"name":"C"}]}]}}}}`), nil, "unchanged"},
		{"two variables change places", deployment, replace(`[{"op":"move","from":"/spec/template/spec/containers/0/env/0","path":"/spec/template/spec/containers/0/env/1"}]`), nil, "configured"},
		{"a container is added", deployment, merge(`{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"b"}]}}}}`), nil, "unchanged"},
		{"a volume gets another medium", deployment, merge(`{"spec":{"template":{"spec":{"volumes":[{"name":"v","emptyDir":{"medium":"Memory"}}]}}}}`), nil, "unchanged"},
		{"it is scaled", deployment, func(o *unstructured.Unstructured) error {
			return c.SubResource("scale").Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":2}}`)), client.FieldOwner("kubectl-scale"))
		}, nil, "configured"},
		{"its controller writes the status", deployment, func(o *unstructured.Unstructured) error { makeReady(t, c, o); return nil }, nil, "unchanged"},
		{"we change a value", configMap, nil, set("x", "data", "ours"), "configured"},
		{"we add a value", configMap, nil, set("x", "data", "new"), "configured"},
		{"we add a label", configMap, nil, set("x", "metadata", "labels", "new"), "configured"},
		{"we drop a value", configMap, nil, remove("data", "more"), "configured"},
		{"we drop all values", configMap, nil, remove("data"), "configured"},
		{"we drop all labels", configMap, nil, remove("metadata", "labels"), "configured"},
		{"we let two ports change places", deployment, nil, func(o *unstructured.Unstructured) error {
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			slices.Reverse(containers[0].(map[string]any)["ports"].([]any))
			return set(containers, "spec", "template", "spec", "containers")(o)
		}, "configured"},
		{"we drop the number of pods", deployment, nil, remove("spec", "replicas"), "unchanged"}, // the default is the same
		{"we drop a port's name", service, nil, func(o *unstructured.Unstructured) error {
			return set([]any{map[string]any{"port": int64(80), "targetPort": int64(8080)}}, "spec", "ports")(o)
		}, "configured"},
	} {
		objs := decode(t, text)
		apply(t, c, objs)
		for _, obj := range objs {
			if !hasApplied(owner, obj, live(t, c, obj)) {
				t.Fatalf("before %q: %s needs a dry run", tc.name, Name(obj))
			}
		}
		obj := objs[tc.object]
		if tc.theirs != nil {
			must(t, tc.theirs(live(t, c, obj)))
		} else {
			must(t, tc.ours(obj))
		}
		drifted, err := c.Drift(t.Context(), objs)
		if must(t, err); slices.Contains(drifted, Name(obj)) != (tc.want != "unchanged") || len(drifted) > 1 {
			t.Errorf("when %s, drift is seen in %v", tc.name, drifted)
		}
		for i, change := range apply(t, c, objs) {
			if want := map[bool]string{true: tc.want, false: "unchanged"}[change.Object == Name(obj)]; change.Action != want {
				t.Errorf("when %s: %s (%d) is %s, want %s", tc.name, change.Object, i, change.Action, want)
			}
		}
		must(t, client.IgnoreNotFound(c.Client.Delete(t.Context(), obj.DeepCopy()))) // what others own goes with it
	}
}

func driftIsNamed(t *testing.T, c *Client) {
	namespace(t, c, "drifted")
	objs := decode(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: same, namespace: drifted}
data: {ours: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: changed, namespace: drifted}
data: {ours: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: removed, namespace: drifted}
data: {ours: "1"}
`)
	apply(t, c, objs)
	names, err := c.Drift(t.Context(), objs)
	if err != nil || len(names) > 0 {
		t.Fatalf("drift %v of what nobody touched: %v", names, err)
	}
	now := live(t, c, objs[1])
	must(t, unstructured.SetNestedField(now.Object, "2", "data", "ours"))
	must(t, c.Update(t.Context(), now, controller))
	must(t, c.Client.Delete(t.Context(), objs[2].DeepCopy()))
	names, err = c.Drift(t.Context(), objs)
	want := []string{"ConfigMap/drifted/changed", "ConfigMap/drifted/removed"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("drift %v: %v; want %v", names, err, want)
	}
	if data, _, _ := unstructured.NestedString(live(t, c, objs[1]).Object, "data", "ours"); data != "2" {
		t.Errorf("looking for drift wrote %q", data)
	}
}

func deadLeasesAreDropped(t *testing.T, c *Client) {
	namespace(t, c, "leases")
	stopped := time.Now()
	lease := func(ns, name string, renewed time.Time) *coordination.Lease {
		at := metav1.NewMicroTime(renewed)
		l := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: coordination.LeaseSpec{RenewTime: &at}}
		must(t, c.Create(t.Context(), l))
		return l
	}
	dead := lease("leases", "dead", stopped.Add(-time.Second))
	held := lease("leases", "held", stopped.Add(time.Second))
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}); !apierrors.IsAlreadyExists(err) {
		must(t, err)
	}
	node := lease(corev1.NamespaceNodeLease, "node", stopped.Add(-time.Second))
	must(t, c.DropLeases(t.Context(), stopped))
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(dead), dead); !apierrors.IsNotFound(err) {
		t.Errorf("the lease of a leader that is gone: %v", err)
	}
	for _, l := range []*coordination.Lease{held, node} {
		must(t, c.Get(t.Context(), client.ObjectKeyFromObject(l), l))
	}
}

func webhookConfigurationTakesOurChanges(t *testing.T, c *Client) {
	objs := decode(t, `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: ours.mllab.test}
webhooks:
- name: ours.mllab.test
  admissionReviewVersions: [v1]
  clientConfig: {service: {name: webhook, namespace: absent}}
  failurePolicy: Ignore
  sideEffects: None
  timeoutSeconds: 10
  rules:
  - {apiGroups: [absent.mllab.test], apiVersions: ["*"], operations: [CREATE], resources: [widgets]}
`)
	apply(t, c, objs)
	controllersRun(t, c, objs)
	hooks, _, _ := unstructured.NestedSlice(objs[0].Object, "webhooks")
	hooks[0].(map[string]any)["timeoutSeconds"] = int64(3)
	must(t, unstructured.SetNestedSlice(objs[0].Object, hooks, "webhooks"))
	expect(t, apply(t, c, objs), 1, "configured")
	var now admission.ValidatingWebhookConfiguration
	must(t, c.Get(t.Context(), types.NamespacedName{Name: "ours.mllab.test"}, &now))
	hook := now.Webhooks[0]
	if *hook.TimeoutSeconds != 3 || len(hook.ClientConfig.CABundle) == 0 || hook.Rules[0].APIGroups[0] != "other.mllab.test" || *hook.FailurePolicy != admission.Fail {
		t.Errorf("timeout %d, %d bytes of CA, rules %v, policy %s; want our new timeout and the controller's rest", *hook.TimeoutSeconds, len(hook.ClientConfig.CABundle), hook.Rules, *hook.FailurePolicy)
	}
}

// refuseConfigMaps registers a webhook for the ConfigMaps of a namespace at an address where nobody listens.
func refuseConfigMaps(t *testing.T, c *Client, ns string) client.Object {
	t.Helper()
	namespace(t, c, ns)
	url, none, fail, scope := "https://127.0.0.1:1/", admission.SideEffectClassNone, admission.Fail, admission.NamespacedScope
	hook := &admission.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns + ".mllab.test"},
		Webhooks: []admission.ValidatingWebhook{{
			Name: ns + ".mllab.test", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail,
			ClientConfig:      admission.WebhookClientConfig{URL: &url},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
			Rules: []admission.RuleWithOperations{{
				Operations: []admission.OperationType{admission.OperationAll},
				Rule:       admission.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}, Scope: &scope},
			}},
		}},
	}
	must(t, c.Create(t.Context(), hook))
	objs := decode(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: probe, namespace: "+ns+"}}")
	for { // the API server takes a moment to call it
		err := c.Create(t.Context(), objs[0].DeepCopy(), client.DryRunAll)
		if err != nil && strings.Contains(err.Error(), "failed calling webhook") {
			return hook
		}
		must(t, err)
	}
}

func applyWaitsForAWebhook(t *testing.T, c *Client) {
	hook := refuseConfigMaps(t, c, "refused")
	objs := decode(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: refused}}")
	ctx, tries := afterTries(t, c)
	_, err := tries.Apply(ctx, objs)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "ConfigMap/refused/a: timeout after ") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v, want a timeout that keeps the webhook's refusal", err)
	}
	done := make(chan error, 1)
	go func() {
		<-time.After(500 * time.Millisecond)
		done <- c.Client.Delete(context.WithoutCancel(t.Context()), hook)
	}()
	expect(t, apply(t, c, objs), 1, "created")
	must(t, <-done)
}

func applyFailsAtOnce(t *testing.T, c *Client) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	namespace(t, c, "wrong")
	good := "{apiVersion: v1, kind: Namespace, metadata: {name: wrong}}\n---\n"
	for object, want := range map[string]string{
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: absent}}":         `ConfigMap/absent/a: namespaces "absent" not found`,
		"{apiVersion: absent.mllab.test/v1, kind: Thing, metadata: {name: a}}":              "Thing/a: no matches for kind",
		"{apiVersion: v1, kind: Service, metadata: {name: a, namespace: wrong}, spec: {}}":  "Service/wrong/a: ",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: wrong}, dta: {}}": "ConfigMap/wrong/b: ",
	} {
		start := time.Now()
		changes, err := c.Apply(ctx, decode(t, good+object))
		if err == nil || !strings.HasPrefix(err.Error(), want) || time.Since(start) > 30*time.Second {
			t.Errorf("after %s: error %v, want %s…", time.Since(start), err, want)
		}
		if len(changes) != 1 || changes[0].Object != "Namespace/wrong" {
			t.Errorf("changes %v, want the one that was made before the error", changes)
		}
	}
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: %s}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: app, image: "kind.local/app:1"}]}
`

// workload applies a Deployment in a namespace of its own and makes one pod of it.
func workload(t *testing.T, c *Client, ns string) ([]*unstructured.Unstructured, *corev1.Pod) {
	t.Helper()
	namespace(t, c, ns)
	objs := decode(t, fmt.Sprintf(deployment, ns))
	apply(t, c, objs)
	return objs, makePod(t, c, ns, "app-1", nil)
}

func makePod(t *testing.T, c *Client, ns, name string, by *metav1.OwnerReference) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "app"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "kind.local/app:1"}}},
	}
	if by != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*by}
	}
	must(t, c.Create(t.Context(), pod))
	return pod
}

// kubelet writes a pod's status.
func kubelet(t *testing.T, c *Client, pod *corev1.Pod, container corev1.ContainerStatus) {
	t.Helper()
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{container}}
	must(t, c.Status().Update(t.Context(), pod))
}

// makeReady writes the status of a Deployment whose pods all run.
func makeReady(t *testing.T, c *Client, obj *unstructured.Unstructured) {
	t.Helper()
	var d appsv1.Deployment
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(obj), &d))
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1, UpdatedReplicas: 1, Conditions: []appsv1.DeploymentCondition{
		{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue},
		{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: "NewReplicaSetAvailable"},
	}}
	must(t, c.Status().Update(t.Context(), &d))
}

// timeless is an error's text with N for how long it took.
func timeless(err error) string {
	return regexp.MustCompile(`timeout after [0-9.]+m?s`).ReplaceAllString(err.Error(), "timeout after N")
}

func waitKeepsItsReason(t *testing.T, c *Client) {
	objs, pod := workload(t, c, "slow")
	objs = append(objs, decode(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: absent, namespace: slow}}")...)
	kubelet(t, c, pod, waiting("ContainerCreating", ""))
	must(t, c.Create(t.Context(), &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "slow", Name: "e"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "slow", Name: pod.Name, UID: pod.UID, FieldPath: "spec.containers{app}"},
		Reason:         "Pulling", Message: `Pulling image "kind.local/app:1"`, Type: corev1.EventTypeNormal, LastTimestamp: metav1.Now(),
	}))
	ctx := newDue(t)
	err := c.Wait(ctx, objs, func(why string) {
		if strings.Contains(why, "pulling kind.local/app:1") {
			ctx.end()
		}
	})
	want := "Deployment/slow/app: timeout after N (last: 0/1 ready, container app: pulling kind.local/app:1)\nConfigMap/slow/absent: timeout after N (last: not there yet)"
	if !errors.Is(err, context.DeadlineExceeded) || timeless(err) != want {
		t.Errorf("error %v, want\n%s", err, want)
	}
}

// background waits for objs and returns the reasons it told so far, and its end.
func background(t *testing.T, wait func(reason func(string)) error) (told func() []string, end func() error) {
	t.Helper()
	var mu sync.Mutex
	var reasons []string
	done := make(chan error, 1)
	go func() {
		done <- wait(func(r string) {
			mu.Lock()
			defer mu.Unlock()
			reasons = append(reasons, r)
		})
	}()
	told = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(reasons)
	}
	return told, func() error {
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			return errors.New("still waiting; told " + strings.Join(told(), " | "))
		}
	}
}

// eventually waits for the newest reason to be want.
func eventually(t *testing.T, told func() []string, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if all := told(); len(all) > 0 && all[len(all)-1] == want {
			return
		}
	}
	t.Fatalf("told %q, want the last to be %q", told(), want)
}

func reasonsAreToldOnce(t *testing.T, c *Client) {
	objs, pod := workload(t, c, "told")
	told, end := background(t, func(reason func(string)) error { return c.Wait(t.Context(), objs, reason) })
	eventually(t, told, "Deployment/told/app: 0/1 ready")
	kubelet(t, c, pod, waiting("ContainerCreating", ""))
	eventually(t, told, "Deployment/told/app: 0/1 ready, container app: starting")
	for i := range 3 { // news that change no reason
		pod.Annotations = map[string]string{"n": fmt.Sprint(i)}
		must(t, c.Update(t.Context(), pod))
	}
	kubelet(t, c, pod, corev1.ContainerStatus{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	eventually(t, told, "Deployment/told/app: 0/1 ready, container app: runs, not ready")
	makeReady(t, c, objs[0])
	must(t, end())
	if all := told(); len(all) != 3 {
		t.Errorf("told %q, want each of the 3 reasons once", all)
	}
}

func waitEndsWhenReady(t *testing.T, c *Client) {
	namespace(t, c, "two")
	objs := decode(t, fmt.Sprintf(deployment, "two")+"---"+strings.ReplaceAll(fmt.Sprintf(deployment, "two"), "name: app, ", "name: b, "))
	told, end := background(t, func(reason func(string)) error { return c.Wait(t.Context(), objs, reason) })
	eventually(t, told, "Deployment/two/app: not there yet (and 1 more)")
	apply(t, c, objs)
	makeReady(t, c, objs[0])
	eventually(t, told, "Deployment/two/b: 0/1 ready")
	makeReady(t, c, objs[1])
	must(t, end())
}

func waitOutlivesItsWatches(t *testing.T, c *Client) {
	objs, _ := workload(t, c, "expired")
	var tried sync.Map // kinds
	hard := *c
	hard.watcher = interceptor.NewClient(c.watcher, interceptor.Funcs{Watch: func(ctx context.Context, inner client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
		if _, again := tried.LoadOrStore(list.GetObjectKind().GroupVersionKind(), true); again {
			return inner.Watch(ctx, list, opts...)
		}
		w := watch.NewFakeWithChanSize(1, false)
		w.Error(&apierrors.NewResourceExpired("too old").ErrStatus)
		return w, nil
	}})
	told, end := background(t, func(reason func(string)) error { return hard.Wait(t.Context(), objs, reason) })
	eventually(t, told, "Deployment/expired/app: 0/1 ready")
	makeReady(t, c, objs[0])
	must(t, end())
}

func waitFailsOnAMissingImage(t *testing.T, c *Client) {
	objs, pod := workload(t, c, "missing")
	told, end := background(t, func(reason func(string)) error { return c.Wait(t.Context(), objs, reason) })
	eventually(t, told, "Deployment/missing/app: 0/1 ready")
	kubelet(t, c, pod, waiting("ImagePullBackOff", "ghcr.io/app:1: not found"))
	start := time.Now()
	err := end()
	want := "Deployment/missing/app: 0/1 ready, container app: cannot pull ghcr.io/app:1: ImagePullBackOff: ghcr.io/app:1: not found"
	if err == nil || err.Error() != want || time.Since(start) > 30*time.Second {
		t.Errorf("after %s: error %v, want at once\n%s", time.Since(start), err, want)
	}
	pods, err := c.Pods(t.Context(), "missing", map[string]string{"app": "app"})
	if err != nil || len(pods) != 1 || pods[0].Name != "app-1" {
		t.Errorf("pods %v (%v), want app-1", pods, err)
	}
	if pods, err := c.Pods(t.Context(), "missing", map[string]string{"app": "other"}); err != nil || len(pods) != 0 {
		t.Errorf("pods %v (%v), want none", pods, err)
	}
	if text, err := c.PodLogs(t.Context(), "missing", "app-1", "app", 5); err != nil || text != "" {
		t.Errorf("log of a pod on no node: %q (%v), want none", text, err)
	}
	if _, err := c.PodLogs(t.Context(), "missing", "absent", "app", 5); err == nil || !strings.HasPrefix(err.Error(), `reading the log of Pod/missing/absent container "app": `) {
		t.Errorf("log of a pod that is not there: %v, want an error that names it", err)
	}
}

// makeNode makes a node whose kubelet answers the API server as h does.
func makeNode(t *testing.T, c *Client, name string, h http.Handler) {
	t.Helper()
	node := httptest.NewTLSServer(h)
	t.Cleanup(node.Close)
	address, err := netip.ParseAddrPort(node.Listener.Addr().String())
	must(t, err)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	must(t, c.Create(t.Context(), n))
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.Addr().String()}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(address.Port())
	must(t, c.Status().Update(t.Context(), n))
}

func waitFailsOnACrashLoop(t *testing.T, c *Client) {
	var asked string
	makeNode(t, c, "node", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path + "?" + r.URL.Query().Encode()
		fmt.Fprint(w, "first line\npanic: no model\n")
	}))

	objs, pod := workload(t, c, "crash")
	must(t, c.SubResource("binding").Create(t.Context(), pod, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "node"}}))
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
	container := waiting("CrashLoopBackOff", "back-off 40s restarting failed container")
	container.RestartCount, container.LastTerminationState = 3, ended(2, "Error")
	kubelet(t, c, pod, container)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := c.Wait(ctx, objs, func(why string) {
		if strings.Contains(why, "CrashLoopBackOff after 3 restarts") {
			container.RestartCount = 8
			must(t, c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod))
			kubelet(t, c, pod, container)
		}
	})
	want := "Deployment/crash/app: 0/1 ready, container app: CrashLoopBackOff after 8 restarts, exit code 2\nlast log lines of app-1 container app:\n  first line\n  panic: no model"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want\n%s", err, want)
	}
	if want := "/containerLogs/crash/app-1/app?previous=true&tailLines=10"; asked != want {
		t.Errorf("the kubelet was asked for %s, want %s", asked, want)
	}
}

func waitIgnoresOldPods(t *testing.T, c *Client) {
	namespace(t, c, "rollout")
	objs := decode(t, fmt.Sprintf(deployment, "rollout"))
	apply(t, c, objs)
	const revision = "deployment.kubernetes.io/revision"
	d := live(t, c, objs[0])
	d.SetAnnotations(map[string]string{revision: "2"})
	must(t, c.Update(t.Context(), d, controller))
	for n, name := range []string{"app-old", "app-new"} {
		rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "rollout", Name: name, Annotations: map[string]string{revision: fmt.Sprint(n + 1)}}}
		rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "app"}}
		rs.Spec.Template.Labels = map[string]string{"app": "app"}
		rs.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: "kind.local/app:1"}}
		must(t, c.Create(t.Context(), rs))
		pod := makePod(t, c, "rollout", name+"-1", metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet")))
		kubelet(t, c, pod, []corev1.ContainerStatus{waiting("ErrImageNeverPull", "old"), waiting("ContainerCreating", "")}[n])
	}
	told, end := background(t, func(reason func(string)) error { return c.Wait(t.Context(), objs, reason) })
	eventually(t, told, "Deployment/rollout/app: 0/1 ready, container app: starting")
	makeReady(t, c, objs[0])
	must(t, end())
}

func deleteWaitsForFinalizers(t *testing.T, c *Client) {
	namespace(t, c, "held")
	objs := decode(t, `
{apiVersion: v1, kind: ConfigMap, metadata: {name: held, namespace: held, finalizers: [mllab.test/hold]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: free, namespace: held}}
---
{apiVersion: absent.mllab.test/v1, kind: Thing, metadata: {name: never, namespace: held}}
`)
	apply(t, c, objs[:2])
	ctx := newDue(t)
	err := c.remove(ctx, objs, func(string) { ctx.end() })
	want := "ConfigMap/held/held: timeout after N (last: being deleted, finalizers mllab.test/hold)"
	if !errors.Is(err, context.DeadlineExceeded) || timeless(err) != want {
		t.Errorf("error %v, want\n%s", err, want)
	}
	_, end := background(t, func(func(string)) error { return c.Delete(t.Context(), objs) })
	now := live(t, c, objs[0])
	now.SetFinalizers(nil)
	must(t, c.Update(t.Context(), now, controller))
	must(t, end())
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(now), now); !apierrors.IsNotFound(err) {
		t.Errorf("after Delete: %v, want not found", err)
	}
}

func deleteNamespace(t *testing.T, c *Client) {
	namespace(t, c, "goner")
	told, end := background(t, func(reason func(string)) error { return c.DeleteNamespace(t.Context(), "goner", reason) })
	eventually(t, told, "Namespace/goner: being deleted")
	// No namespace controller runs here, so this test is it: it reports what is left, then lets go.
	var ns corev1.Namespace
	must(t, c.Get(t.Context(), types.NamespacedName{Name: "goner"}, &ns))
	ns.Status.Conditions = []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Status: corev1.ConditionFalse, Message: "all resources discovered"},
		{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionTrue, Message: "Some resources are remaining: pods. has 2 resource instances"},
	}
	must(t, c.Status().Update(t.Context(), &ns))
	eventually(t, told, "Namespace/goner: being deleted, Some resources are remaining: pods. has 2 resource instances")
	ns.Spec.Finalizers = nil
	must(t, c.SubResource("finalize").Update(t.Context(), &ns))
	must(t, end())
	must(t, c.DeleteNamespace(t.Context(), "goner", nil)) // again
}

func watchTellsChanges(t *testing.T, c *Client) {
	namespace(t, c, "watched")
	namespace(t, c, "unwatched")
	old := makePod(t, c, "watched", "old", nil)
	w, err := c.Watch(t.Context(), "watched", &corev1.PodList{})
	must(t, err)
	makePod(t, c, "unwatched", "other", nil)
	makePod(t, c, "watched", "new", nil)
	must(t, c.Client.Delete(t.Context(), old, client.GracePeriodSeconds(0)))
	for _, want := range []string{"ADDED new", "MODIFIED old", "DELETED old"} {
		if e := <-w.ResultChan(); fmt.Sprint(e.Type, " ", e.Object.(*corev1.Pod).Name) != want {
			t.Errorf("told %s %v, want %s", e.Type, e.Object, want)
		}
	}
	w.Stop()
	for range w.ResultChan() { // it would hang if the channel stayed open
	}
}
