package bootstrap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/proxy"
)

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(w *world, o UpOptions)
		ready bool
		why   string
		next  string
	}{
		{"ready", func(*world, UpOptions) {}, true, "", "mllab scenario canary"},
		{"nothing there", func(w *world, o UpOptions) { mustDown(w.t, w, o.down()) }, false, "there is no cluster mllab", "mllab up"},
		{"stopped", func(w *world, _ UpOptions) { w.containers[0].Status = "exited" }, false, "its node is stopped", "mllab up"},
		{"dead", func(w *world, _ UpOptions) { w.dead["mllab-control-plane"] = true }, false, "processes are dead", "mllab up"},
		{"foreign", func(w *world, _ UpOptions) { w.containers[0].Image = "kindest/node:v1" }, false, "not mllab's", "mllab doctor --name mllab"},
		{"no answer from Kubernetes", func(w *world, _ UpOptions) { w.awaitErr = errors.New("waiting for Kubernetes: connection refused") }, false, "connection refused", "mllab up"},
		{"drained by hand", func(w *world, _ UpOptions) {
			w.cordoned, w.sampleErr = "mllab-control-plane", errors.New("timeout after 30s")
		}, false, "Node/mllab-control-plane is cordoned, so no pod can start", " uncordon mllab-control-plane`"},
		{"an addon is broken", func(w *world, _ UpOptions) {
			w.addonErr["istio"] = errors.New("Deployment/istio-system/istiod: 0/1 ready")
		}, false, "istio: Deployment/istio-system/istiod: 0/1 ready", "mllab up"},
		{"the gateway answers 503 although its Deployment is ready", func(w *world, _ UpOptions) {
			w.sampleErr = errors.New("status 503 from a proxy, not from the application")
		}, false, "GET http://127.0.0.1:8080: status 503 from a proxy, not from the application", "mllab up"},
		{"the kubelet does not run although the node was ready", func(w *world, _ UpOptions) {
			w.failing["exec mllab-control-plane systemctl"] = errors.New("exit status 3: inactive")
		}, false, "systemctl is-active kubelet, in the node: exit status 3: inactive", "mllab up"},
		{"no engine", func(w *world, _ UpOptions) { w.failing["info"] = errors.New("exit status 1: Cannot connect to Podman") }, false, "podman is installed, but its machine is not running", "mllab doctor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			mustUp(t, w, o)
			c.do(w, o)
			w.calls = nil
			r, err := status(t.Context(), o.Options, w.deps())
			if err != nil || r.Ready != c.ready || !strings.Contains(r.Why, c.why) || !strings.HasSuffix(r.Next, c.next) {
				t.Errorf("%+v, %v", r, err)
			}
			if len(w.calls) > 0 {
				t.Errorf("it changed something: %v", w.calls)
			}
			if c.ready && (r.Memory != 600 || r.URL != "http://127.0.0.1:8080" || r.Kubernetes != "v1.36.5" || len(r.Addons) == 0 ||
				!slices.Equal(r.Checks, []Check{{"systemctl is-active kubelet, in the node", true, "active"}, {"GET http://127.0.0.1:8080", true, "200 from sample"}})) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestUpDoesNotWaitForPodsOnANodeThatTakesNone(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.cordoned = "mllab-control-plane"
	installs := w.installs
	_, err := up(t.Context(), o, w.deps())
	if err == nil || !strings.Contains(err.Error(), "Node/mllab-control-plane is cordoned") || !strings.HasSuffix(fault.Hint(err), "/state/mllab/kubeconfig uncordon mllab-control-plane`") || w.installs != installs {
		t.Errorf("%v (hint %q), %d installs more", err, fault.Hint(err), w.installs-installs)
	}
}

func TestStatusNamesWhatFluxCannotApply(t *testing.T) {
	w := newWorld(t)
	w.unready = []addons.Unready{{Object: "Kustomization/team/model", Why: "ReconciliationFailed: no such image"}}
	o := w.options()
	o.Core = true
	mustUp(t, w, o)
	if r, err := status(t.Context(), o.Options, w.deps()); err != nil || !r.Ready || len(r.Flux) > 0 {
		t.Errorf("without the addon: %+v, %v", r, err)
	}
	o.Addons = []string{"flux"}
	mustUp(t, w, o)
	r, err := status(t.Context(), o.Options, w.deps())
	if err != nil || !r.Ready || !slices.Equal(r.Flux, w.unready) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTheLabIsNotReadyWhileItsGatewayRefusesItsRoutes(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	mustUp(t, w, o)
	w.rejected = []proxy.Rejection{{Proxy: "web-1.shop", What: "routes", Reason: "bad"}}
	if r, err := status(t.Context(), o.Options, w.deps()); err != nil || !r.Ready || len(r.Proxies) != 1 {
		t.Errorf("another pod's proxy: %+v, %v", r, err)
	}
	w.rejected = []proxy.Rejection{{Proxy: "istio-ingressgateway-1.istio-system", What: "routes", Reason: "invalid perl operator: (?!", Object: "HTTPRoute/shop/web", Named: true}}
	r, err := status(t.Context(), o.Options, w.deps())
	if err != nil || r.Ready || !strings.Contains(r.Why, "invalid perl operator: (?! (from HTTPRoute/shop/web)") || !strings.Contains(r.Next, "delete HTTPRoute/shop/web") {
		t.Errorf("the gateway's proxy: %+v, %v", r, err)
	}
	list, err := doctor(t.Context(), o, w.deps())
	if i := slices.IndexFunc(list, func(f Finding) bool { return f.ID == "proxy" }); err != nil || i < 0 || list[i].Level != LevelWarn || !strings.Contains(list[i].What, "invalid perl operator") {
		t.Errorf("doctor finds %+v, %v", list, err)
	}
	w.rejected, w.addonErr["istiod"] = nil, errors.New("istiod does not answer")
	if r, err := status(t.Context(), o.Options, w.deps()); err != nil || r.Ready || r.Why != "istiod does not answer" {
		t.Errorf("an istiod that cannot be asked: %+v, %v", r, err)
	}
}

func TestStatusOfALabUnderGitOps(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.GitOps = true
	mustUp(t, w, o)
	w.addonErr["sample"] = fmt.Errorf("Kustomization/flux-system/sample: %w", addons.ErrNotInGit)
	r, err := status(t.Context(), o.Options, w.deps())
	if err != nil || !r.Ready || r.GitOps != "main@sha1:abc" {
		t.Errorf("an addon that a commit took away: %+v, %v", r, err)
	}
	if len(r.Checks) != 1 {
		t.Errorf("an addon that is gone was asked: %+v", r.Checks)
	}
	for _, a := range r.Addons {
		if a.Gone != (a.Name == "sample") || a.Ready == a.Gone {
			t.Errorf("%+v", a)
		}
	}
	w.addonErr["knative"] = errors.New("Kustomization/flux-system/knative: BuildFailed: bad YAML")
	if r, err = status(t.Context(), o.Options, w.deps()); err != nil || r.Ready || r.Why != "knative: Kustomization/flux-system/knative: BuildFailed: bad YAML" {
		t.Errorf("an addon that Flux cannot apply: %+v, %v", r, err)
	}
	w.addonErr["lab"] = errors.New("GitRepository/flux-system/lab: GitOperationFailed")
	if r, err = status(t.Context(), o.Options, w.deps()); err != nil || r.Ready || !strings.Contains(r.Why, "GitOperationFailed") {
		t.Errorf("a Git that Flux cannot read: %+v, %v", r, err)
	}
}
