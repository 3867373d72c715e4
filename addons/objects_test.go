package addons

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
	"mllab.local/manifests"
)

// images gives every component of every addon a reference of its own.
func images() Images {
	im := Images{}
	for _, a := range All() {
		for _, c := range a.Images {
			im[c] = "kind.local/" + c + ":test"
		}
	}
	return im
}

func render(t *testing.T, a Addon) []*unstructured.Unstructured {
	t.Helper()
	objs, err := a.objects(images())
	if err != nil {
		t.Fatalf("rendering %s: %v", a.Name, err)
	}
	return objs
}

// find returns the one object called kind/name or kind/namespace/name.
func find(t *testing.T, objs []*unstructured.Unstructured, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range objs {
		if kube.Name(o) == name {
			return o
		}
	}
	t.Fatalf("%s is not rendered", name)
	return nil
}

// walk calls visit with every string in value and the key it is under.
func walk(key string, value any, visit func(key, s string)) {
	switch v := value.(type) {
	case string:
		visit(key, v)
	case map[string]any:
		for k, inner := range v {
			walk(k, inner, visit)
		}
	case []any:
		for _, inner := range v {
			walk(key, inner, visit)
		}
	}
}

// registry finds a reference into somebody's registry, or one for ko to build.
var registry = regexp.MustCompile(`ko://|\b(gcr\.io|docker\.io|quay\.io|ghcr\.io|registry\.k8s\.io|registry\.istio\.io)/`)

func TestEveryImageIsOneThatWasGiven(t *testing.T) {
	for _, a := range All() {
		t.Run(a.Name, func(t *testing.T) {
			given := map[string]bool{}
			for _, c := range a.Images {
				given[images()[c]] = true
			}
			used := map[string]bool{}
			for _, o := range render(t, a) {
				if o.GetKind() == "CustomResourceDefinition" {
					continue // schemas only
				}
				walk("", o.Object, func(key, s string) {
					if found := registry.FindString(s); found != "" {
						t.Errorf("%s: %s still names %s", kube.Name(o), key, found)
					}
					if key == "image" && !given[s] {
						t.Errorf("%s: image %q was not given", kube.Name(o), s)
					}
					for ref := range given {
						if strings.Contains(s, ref) {
							used[ref] = true
						}
					}
				})
			}
			if missing := len(given) - len(used); missing != 0 {
				t.Errorf("%d of the addon's images are used nowhere; used: %v", missing, slices.Sorted(maps.Keys(used)))
			}
		})
	}
}

func TestAnImageThatIsNotGivenIsAnErrorThatNamesIt(t *testing.T) {
	for _, a := range All() {
		for _, c := range a.Images {
			im := images()
			delete(im, c)
			if _, err := a.objects(im); err == nil || !strings.Contains(err.Error(), c) {
				t.Errorf("%s without %s: error is %v, want it to name the component", a.Name, c, err)
			}
		}
	}
}

func TestObjectsAreCompleteUniqueAndTheSameEachTime(t *testing.T) {
	owner := map[string]string{}
	for _, a := range All() {
		objs, again := render(t, a), render(t, a)
		if !reflect.DeepEqual(objs, again) {
			t.Errorf("%s: two renderings differ", a.Name)
		}
		for _, o := range objs {
			if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName() == "" {
				t.Errorf("%s: an object lacks kind, apiVersion or name: %v", a.Name, o.Object)
			}
			name := o.GetAPIVersion() + " " + kube.Name(o)
			if other := owner[name]; other != "" {
				t.Errorf("%s is rendered by %s and by %s", name, other, a.Name)
			}
			owner[name] = a.Name
		}
	}
	if len(owner) < 100 {
		t.Errorf("only %d objects are rendered in all", len(owner))
	}
}

func TestEveryNamespaceIsOursAndRenderedByTheAddonItselfOrOneBeforeIt(t *testing.T) {
	have := map[string]bool{"": true, "default": true, "kube-system": true}
	for _, a := range All() {
		objs := render(t, a)
		for _, o := range objs {
			if o.GetKind() == "Namespace" {
				have[o.GetName()] = true
				if o.GetLabels()[managedBy] != mllab {
					t.Errorf("%s: namespace %s lacks the label %s=%s", a.Name, o.GetName(), managedBy, mllab)
				}
				if strings.HasPrefix(o.GetName(), "mllab-") != slices.Contains(Reserved(), o.GetName()) {
					t.Errorf("%s: namespace %s could be a run's, reserved are %q", a.Name, o.GetName(), Reserved())
				}
			}
		}
		for _, o := range objs {
			if !have[o.GetNamespace()] {
				t.Errorf("%s: nobody has made the namespace of %s", a.Name, kube.Name(o))
			}
		}
	}
}

// Its files are read only when a lab is made, so one that cannot be read would be found there.
func TestEveryManifestThatIsUsedWhileAnAddonRunsCanBeRead(t *testing.T) {
	files, err := fs.Glob(manifests.Addons, "addons/*/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("there are %q: %v", files, err)
	}
	for _, file := range files {
		objs, err := manifest(strings.TrimPrefix(file, "addons/"), "$(name)", "x", "$(marker)", "x", "$(image)", "registry:5000/x@sha256:0", "$(executor)", "kind.local/x:1")
		if err != nil {
			t.Error(err)
		}
		for _, o := range objs {
			walk("", o.Object, func(key, s string) {
				if strings.Contains(s, "$(") {
					t.Errorf("%s: nothing comes in the place of %s", file, s)
				}
			})
		}
	}
}

// What an earlier verification's objects owned must not count for a later one.
func TestEachVerificationHasNamesOfItsOwn(t *testing.T) {
	files, err := fs.Glob(manifests.Addons, "addons/*/verify.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("there are %q: %v", files, err)
	}
	for _, file := range files {
		addon := strings.Split(file, "/")[1]
		var names [2][]string
		for i := range names {
			objs, err := verification(addon)
			if err != nil {
				t.Fatal(err)
			}
			name := objs[0].GetName()
			prefix := name[:min(len(name), len(verifyName+"-12345"))]
			for _, o := range objs {
				names[i] = append(names[i], kube.Name(o))
				if o.GetLabels()[verifyLabel] != addon {
					t.Errorf("%s has labels %v", kube.Name(o), o.GetLabels())
				}
				walk("", o.Object, func(key, s string) {
					if strings.Contains(s, verifyName) && !strings.HasPrefix(s, prefix) {
						t.Errorf("%s: %s is %s, and names nothing of this verification", file, key, s)
					}
				})
			}
		}
		for i, name := range names[0] {
			if name == names[1][i] {
				t.Errorf("%s: two verifications have %s", file, name)
			}
		}
	}
}

func TestAVerificationRemovesWhatAKilledOneLeft(t *testing.T) {
	killed, err := verification("network")
	if err != nil {
		t.Fatal(err)
	}
	users := killed[0].DeepCopy()
	users.SetName("of-a-user")
	users.SetLabels(nil)
	others := killed[0].DeepCopy()
	others.SetName("of-another-addon")
	others.SetLabels(map[string]string{verifyLabel: "other"})
	env := cluster(t, killed[0], users, others)
	objs, err := verification("network")
	if err == nil {
		err = removeKilled(t.Context(), env, objs)
	}
	if err != nil {
		t.Fatal(err)
	}
	var left corev1.ServiceList
	if err := env.Kube.List(t.Context(), &left); err != nil || len(left.Items) != 2 {
		t.Errorf("%d Services are left, %v", len(left.Items), err)
	}
}

// podSpecs returns the pod specs in objs, each under its object's name.
func podSpecs(objs []*unstructured.Unstructured) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, o := range objs {
		if o.GetKind() == "CustomResourceDefinition" {
			continue
		}
		if spec, ok, _ := unstructured.NestedMap(o.Object, "spec", "template", "spec"); ok {
			out[kube.Name(o)] = spec
		}
	}
	return out
}

// The worked example of docs/architecture.md is an addon that is there.
func TestTheWorkedExampleIsTheAddonsOwnCode(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("kubeflow.go")
	if err != nil {
		t.Fatal(err)
	}
	const begin = "// jobset runs the jobs"
	_, code, _ := strings.Cut(string(own), begin)
	code, _, found := strings.Cut(code, "\n}\n")
	if !found || !strings.Contains(string(page), begin+code+"\n}\n") {
		t.Errorf("the page does not have the code that begins %q", begin)
	}
}

func TestRequestsOfAllAddonsFitOneCore(t *testing.T) {
	var cpu, memory resource.Quantity
	count := 0
	for _, a := range All() {
		for name, spec := range podSpecs(render(t, a)) {
			containers, _, _ := unstructured.NestedSlice(spec, "containers")
			for _, c := range containers {
				requests, _, _ := unstructured.NestedStringMap(c.(map[string]any), "resources", "requests")
				if requests["cpu"] == "" || requests["memory"] == "" {
					t.Errorf("%s: a container requests no CPU or no memory", name)
					continue
				}
				cpu.Add(resource.MustParse(requests["cpu"]))
				memory.Add(resource.MustParse(requests["memory"]))
				count++
			}
		}
	}
	t.Logf("%d containers request %s CPU and %d MiB", count, cpu.String(), memory.Value()>>20)
	if cpu.Cmp(resource.MustParse("1")) > 0 {
		t.Errorf("together they request %s CPU, more than one core", cpu.String())
	}
	if count < 8 {
		t.Errorf("only %d containers were found", count)
	}
}

func TestReadinessOfDeploymentsIsLookedAtEverySecond(t *testing.T) {
	for _, a := range All() {
		for name, spec := range podSpecs(render(t, a)) {
			if !strings.HasPrefix(name, "Deployment/") {
				continue // Knative probes its own far more often
			}
			containers, _, _ := unstructured.NestedSlice(spec, "containers")
			for _, c := range containers {
				probe, ok, _ := unstructured.NestedMap(c.(map[string]any), "readinessProbe")
				if ok && (probe["periodSeconds"] != int64(1) || probe["initialDelaySeconds"] != nil) {
					t.Errorf("%s: readiness probe is %v", name, probe)
				}
			}
		}
	}
}

func TestNothingIsRenderedThatALabOnOneNodeCannotServe(t *testing.T) {
	for _, a := range All() {
		for _, o := range render(t, a) {
			switch o.GetKind() {
			case "HorizontalPodAutoscaler", "PodDisruptionBudget", "Certificate", "EnvoyFilter":
				t.Errorf("%s renders %s", a.Name, kube.Name(o))
			case "Deployment":
				if n, ok, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); ok && n != 1 {
					t.Errorf("%s wants %d replicas", kube.Name(o), n)
				}
			}
		}
	}
}

func TestIstioRunsWithAStockEnvoyBehindOneNodePort(t *testing.T) {
	objs := render(t, istio())
	svc := find(t, objs, "Service/istio-system/istio-ingressgateway")
	if kind, _, _ := unstructured.NestedString(svc.Object, "spec", "type"); kind != "LoadBalancer" {
		t.Errorf("the gateway's Service is of type %s", kind)
	}
	ports, _, _ := unstructured.NestedSlice(svc.Object, "spec", "ports")
	if !slices.ContainsFunc(ports, func(p any) bool {
		m := p.(map[string]any)
		return m["port"] == int64(80) && m["nodePort"] == int64(NodePortHTTP) && m["name"] == "http2"
	}) {
		t.Errorf("port 80 is not on node port %d: %v", NodePortHTTP, ports)
	}

	env := map[string]string{}
	spec := podSpecs(objs)["Deployment/istio-system/istiod"]
	containers, _, _ := unstructured.NestedSlice(spec, "containers")
	list, _, _ := unstructured.NestedSlice(containers[0].(map[string]any), "env")
	for _, e := range list {
		name, _ := e.(map[string]any)["name"].(string)
		env[name], _ = e.(map[string]any)["value"].(string)
	}
	for name, want := range map[string]string{
		"PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_DISABLE_MX_ALPN": "true",
		"PILOT_ENABLE_GATEWAY_API": "true", "PILOT_ENABLE_GATEWAY_API_GATEWAYCLASS_CONTROLLER": "true",
		"DISABLE_SHADOW_HOST_SUFFIX": "false",
	} {
		if env[name] != want {
			t.Errorf("istiod has %s=%q, want %q", name, env[name], want)
		}
	}

	meshConfig, _, _ := unstructured.NestedString(find(t, objs, "ConfigMap/istio-system/istio").Object, "data", "mesh")
	for _, want := range []string{"mode: ALLOW_ANY", "terminationDrainDuration: 1s", "trustDomain: cluster.local"} {
		if !strings.Contains(meshConfig, want) {
			t.Errorf("the mesh's configuration lacks %q:\n%s", want, meshConfig)
		}
	}

	// What the injector puts into other people's pods.
	text, _, _ := unstructured.NestedString(find(t, objs, "ConfigMap/istio-system/istio-sidecar-injector").Object, "data", "values")
	var values struct {
		Global struct {
			ImagePullPolicy string
			Proxy           struct {
				Image     string
				Resources struct{ Requests map[string]string }
			}
			ProxyInit struct{ Image string } `json:"proxy_init"`
		}
	}
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	g, want := values.Global, images()["istio-proxyv2"]
	if g.Proxy.Image != want || g.ProxyInit.Image != want || g.ImagePullPolicy != "IfNotPresent" {
		t.Errorf("the injector uses %q and %q, pull policy %q; want %q and IfNotPresent", g.Proxy.Image, g.ProxyInit.Image, g.ImagePullPolicy, want)
	}
	if g.Proxy.Resources.Requests["cpu"] != "10m" || g.Proxy.Resources.Requests["memory"] != "32Mi" {
		t.Errorf("a sidecar requests %v", g.Proxy.Resources.Requests)
	}
	find(t, objs, "MutatingWebhookConfiguration/istio-sidecar-injector")
	// As istioctl installs it: whatever labels a route has or lacks, istiod judges it.
	validator := find(t, objs, "ValidatingWebhookConfiguration/istiod-default-validator")
	hooks, _, _ := unstructured.NestedSlice(validator.Object, "webhooks")
	if len(hooks) != 1 || hooks[0].(map[string]any)["objectSelector"] != nil || hooks[0].(map[string]any)["namespaceSelector"] != nil {
		t.Errorf("the default validator has %d webhooks, or looks at some objects only: %v", len(hooks), hooks)
	}
	find(t, objs, "CustomResourceDefinition/virtualservices.networking.istio.io")
}

func TestKnativeIsConfiguredForTheLab(t *testing.T) {
	objs := render(t, knative())
	for _, c := range []struct{ config, key, want string }{
		{"config-network", "ingress-class", "gateway-api.ingress.networking.knative.dev"},
		{"config-domain", "mllab.test", ""},
		{"config-deployment", "queue-sidecar-image", images()["knative-queue"]},
		{"config-deployment", "queue-sidecar-cpu-request", "10m"},
		{"config-deployment", "registries-skipping-tag-resolving", "kind.local,ko.local,dev.local"},
	} {
		o := find(t, objs, "ConfigMap/knative-serving/"+c.config)
		if got, ok, _ := unstructured.NestedString(o.Object, "data", c.key); !ok || got != c.want {
			t.Errorf("%s: %s is %q (there: %v), want %q", c.config, c.key, got, ok, c.want)
		}
	}
	for _, o := range objs {
		if o.GetKind() == "ConfigMap" && o.GetAnnotations()["knative.dev/example-checksum"] != "" {
			t.Errorf("%s keeps the checksum of an example it no longer has", kube.Name(o))
		}
	}
	// One gateway: both of Knative's go to the same pods, the local one from inside only.
	for _, name := range []string{"knative-gateway", "knative-local-gateway"} {
		find(t, objs, "Gateway/istio-system/"+name)
	}
	local := find(t, objs, "Service/istio-system/knative-local-gateway")
	if kind, _, _ := unstructured.NestedString(local.Object, "spec", "type"); kind != "ClusterIP" {
		t.Errorf("the local gateway's Service is of type %s", kind)
	}
	// The links that knative.dev/serving's module lacks.
	for _, crd := range []string{
		"certificates.networking.internal.knative.dev", "clusterdomainclaims.networking.internal.knative.dev",
		"ingresses.networking.internal.knative.dev", "serverlessservices.networking.internal.knative.dev",
		"images.caching.internal.knative.dev",
	} {
		find(t, objs, "CustomResourceDefinition/"+crd)
	}
}

func TestVersionsAreThoseOfThePins(t *testing.T) {
	list, err := Versions()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range list {
		got[v.Name] = v.Version
	}
	main, gateway := requires(t, "../go.mod"), requires(t, nested+"knative-net-gateway-api/go.mod")
	istioSource, flux := requires(t, nested+"istio/go.mod"), requires(t, nested+"flux/go.mod")
	for _, p := range pins {
		if got[p.name] != p.minor && !strings.HasPrefix(got[p.name], p.minor+".") {
			t.Errorf("%s is %s, and its end is that of %s: look the day up again", p.name, got[p.name], p.minor)
		}
	}
	for _, c := range []struct{ name, pinned string }{
		{"kubernetes", requires(t, nested+"kubernetes/go.mod")["k8s.io/kubernetes"]},
		{"gateway-api", gateway["sigs.k8s.io/gateway-api"]},
		{"istio", istioSource["istio.io/client-go"]},
		{"knative", strings.Replace(main["knative.dev/serving"], "v0.50.", "v1.23.", 1)},
		{"net-gateway-api", strings.Replace(gateway["knative.dev/net-gateway-api"], "v0.48.", "v1.21.", 1)},
		{"source-controller", flux["github.com/fluxcd/source-controller"]},
		{"kustomize-controller", flux["github.com/fluxcd/kustomize-controller"]},
		{"helm-controller", flux["github.com/fluxcd/helm-controller"]},
		{"jobset", requires(t, nested+"trainer/go.mod")["sigs.k8s.io/jobset"]},
		{"trainer", requires(t, nested+"trainer/go.mod")["github.com/kubeflow/trainer/v2"]},
		{"kserve", requires(t, nested+"kserve/go.mod")["github.com/kserve/kserve"]},
		{"argo-workflows", requires(t, nested+"argo-workflows/go.mod")["github.com/argoproj/argo-workflows/v4"]},
		{"registry", requires(t, nested+"registry/go.mod")["github.com/distribution/distribution/v3"]},
		{"flagger", requires(t, nested+"flagger/go.mod")["github.com/fluxcd/flagger"]},
		{"alertmanager", requires(t, nested+"alertmanager/go.mod")["github.com/prometheus/alertmanager"]},
		{"prometheus", strings.Replace(requires(t, nested+"prometheus/go.mod")["github.com/prometheus/prometheus"], "v0.316.", "v3.16.", 1)},
	} {
		if got[c.name] == "" || !strings.HasPrefix(c.pinned, "v"+got[c.name]) {
			t.Errorf("%s is shown as %q, pinned is %s: if the pin is right, run make build", c.name, got[c.name], c.pinned)
		}
	}
	for version, want := range map[string]string{"v0.48.2": "1.21.2", "v0.27.0": "1.0.0"} {
		if got, err := knativeRelease(version); got != want || err != nil {
			t.Errorf("knative.dev/serving %s is Knative %q (%v), want %s", version, got, err, want)
		}
	}
	for _, bad := range []string{"", "main", "v0.26.0", "v1.2.3"} {
		if got, err := knativeRelease(bad); err == nil {
			t.Errorf("%q is taken for Knative %s", bad, got)
		}
	}
}

const nested = "../bootstrap/images/modules/"

// requires reads a go.mod's requirements.
func requires(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) >= 2 && strings.HasPrefix(f[1], "v") {
			out[f[0]] = f[1]
		}
	}
	return out
}

func TestManifestsAndImagesComeFromTheSamePins(t *testing.T) {
	main := requires(t, "../go.mod")
	istioSource := requires(t, nested+"istio/go.mod")
	serving := requires(t, nested+"knative-serving/go.mod")
	gateway := requires(t, nested+"knative-net-gateway-api/go.mod")
	for _, c := range []struct {
		what        string
		left, right string
	}{
		{"istio.io/istio here and where istiod is built", main["istio.io/istio"], istioSource["istio.io/istio"]},
		{"knative.dev/serving here and where Knative is built", main["knative.dev/serving"], serving["knative.dev/serving"]},
		{"knative.dev/networking of both halves of Knative", serving["knative.dev/networking"], gateway["knative.dev/networking"]},
	} {
		if c.left == "" || c.left != c.right {
			t.Errorf("%s: %q and %q, want the same", c.what, c.left, c.right)
		}
	}
}

// istioctl analyze calls two Gateways that take the same host on the same port of the same pods an error.
func TestNoTwoGatewaysTakeTheSameHost(t *testing.T) {
	taken := map[string]string{}
	for _, a := range All() {
		for _, o := range render(t, a) {
			if o.GetKind() != "Gateway" || !strings.HasPrefix(o.GetAPIVersion(), "networking.istio.io/") {
				continue
			}
			selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector")
			servers, _, _ := unstructured.NestedSlice(o.Object, "spec", "servers")
			for _, s := range servers {
				hosts, _, _ := unstructured.NestedStringSlice(s.(map[string]any), "hosts")
				number, _, _ := unstructured.NestedInt64(s.(map[string]any), "port", "number")
				for _, h := range hosts {
					at := fmt.Sprint(selector, number, h)
					if taken[at] != "" {
						t.Errorf("%s and %s take host %s on port %d", taken[at], kube.Name(o), h, number)
					}
					taken[at] = kube.Name(o)
				}
			}
		}
	}
	if len(taken) == 0 {
		t.Error("there is no Gateway")
	}
}
