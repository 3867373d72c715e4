// Package proxy asks istiod which proxies refuse the configuration that it sends them. A proxy that refuses goes on with
// its last good one, and no object's status says so: every later change to it, whoever makes it, has no effect.
package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"mllab.local/internal/kube"
)

const (
	namespace   = "istio-system"
	monitoring  = 15014 // istiod's port, with /debug
	gatewayName = "istio-ingressgateway"
)

// Rejection is one proxy that refuses one kind of configuration.
type Rejection struct {
	Proxy  string `json:"proxy"`  // POD.NAMESPACE
	What   string `json:"what"`   // "routes", "listeners", "clusters", ...
	Reason string `json:"reason"` // Envoy's own words
	// Object is what the configuration is most likely refused for, as Kind/namespace/name; empty if nothing could be it.
	Object string `json:"object,omitempty"`
	// Named: the reason has a word of Object's. Otherwise it is only the newest object that can be to blame.
	Named bool `json:"named,omitempty"`
}

// Error says all of it in one sentence.
func (r Rejection) Error() string {
	text := fmt.Sprintf("proxy %s refuses its new %s and keeps the old ones: %s", r.Proxy, r.What, r.Reason)
	switch {
	case r.Named:
		text += " (from " + r.Object + ")"
	case r.Object != "":
		text += " (perhaps from " + r.Object + ", the newest object)"
	}
	return text
}

// Hint says how to get the proxy going again.
func (r Rejection) Hint() string {
	return fmt.Sprintf("fix or delete %s: until then no change of anybody's takes effect in that proxy", cmp.Or(r.Object, "the object it is refused for"))
}

// InNamespace reports whether the proxy's pod is there.
func (r Rejection) InNamespace(ns string) bool { return strings.HasSuffix(r.Proxy, "."+ns) }

// OfGateway reports whether it is the ingress gateway that refuses.
func (r Rejection) OfGateway() bool {
	return strings.HasPrefix(r.Proxy, gatewayName+"-") && r.InNamespace(namespace)
}

// types maps istiod's names of configuration types.
// https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-types
var types = map[string]string{
	"type.googleapis.com/envoy.config.route.v3.RouteConfiguration":         "routes",
	"type.googleapis.com/envoy.config.listener.v3.Listener":                "listeners",
	"type.googleapis.com/envoy.config.cluster.v3.Cluster":                  "clusters",
	"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment":   "endpoints",
	"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret": "secrets",
	"type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig":        "extensions",
}

// Rejections returns what the proxies refuse now, the gateway's first. It changes nothing.
func Rejections(ctx context.Context, c *kube.Client) ([]Rejection, error) {
	pods, err := c.Pods(ctx, namespace, map[string]string{"app": "istiod"})
	if err != nil {
		return nil, fmt.Errorf("looking for istiod: %w", err)
	}
	var all []Rejection
	for _, p := range pods {
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			continue
		}
		body, err := c.FromLoopback(ctx, namespace, p.Name, monitoring, "/debug/syncz")
		if err != nil {
			return nil, err
		}
		found, err := parse(body)
		if err != nil {
			return nil, fmt.Errorf("reading what istiod says of its proxies: %w", err)
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	objs, err := candidates(ctx, c)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if r := &all[i]; strings.HasPrefix(r.Reason, dump) {
			name := strings.LastIndex(r.Proxy, ".")
			log, _ := c.PodLogs(ctx, r.Proxy[name+1:], r.Proxy[:name], "istio-proxy", 100) // without it the reason is less
			r.Reason = failedCheck(log)
		}
		all[i].blame(objs)
	}
	return all, nil
}

// dump is how Envoy begins when a configuration fails its own checks: with all of the configuration, good parts too.
// istiod keeps the beginning only, so the reason at the end is lost, and every word is some object's.
const dump = "goo.gle/debug"

var check = regexp.MustCompile(`Proto constraint validation failed \(([^\n]*)\)`)

// failedCheck returns the reason from a proxy's log: the last one.
func failedCheck(log string) string {
	if found := check.FindAllStringSubmatch(log, -1); found != nil {
		return found[len(found)-1][1]
	}
	return "it fails Envoy's own checks: the log of the proxy's pod says which"
}

// parse reads istiod's /debug/syncz.
// https://github.com/istio/istio/blob/1.31.0/pilot/pkg/xds/debug.go (SyncStatus)
func parse(body []byte) ([]Rejection, error) {
	var list []struct {
		Proxy     string
		Resources map[string]struct{ LastError string }
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	var all []Rejection
	for _, p := range list {
		for url, r := range p.Resources {
			if r.LastError != "" {
				all = append(all, Rejection{Proxy: p.Proxy, What: cmp.Or(types[url], url), Reason: strings.Join(strings.Fields(r.LastError), " ")})
			}
		}
	}
	slices.SortFunc(all, func(a, b Rejection) int {
		switch {
		case a.OfGateway() && !b.OfGateway():
			return -1
		case b.OfGateway() && !a.OfGateway():
			return 1
		}
		return cmp.Or(cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.What, b.What))
	})
	return all, nil
}

// kinds are the kinds of users' objects that istiod makes proxies' configuration from.
var kinds = []string{
	"networking.istio.io/v1alpha3 EnvoyFilter", "networking.istio.io/v1 VirtualService", "networking.istio.io/v1 Gateway",
	"networking.istio.io/v1 DestinationRule", "networking.istio.io/v1 ServiceEntry", "extensions.istio.io/v1alpha1 WasmPlugin",
	"gateway.networking.k8s.io/v1 HTTPRoute", "gateway.networking.k8s.io/v1 GRPCRoute", "gateway.networking.k8s.io/v1 Gateway",
}

func candidates(ctx context.Context, c *kube.Client) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, k := range kinds {
		version, kind, _ := strings.Cut(k, " ")
		list, err := c.Objects(ctx, version, kind)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// blame names the object that has most of the reason's words, the newest one of several; or the newest of all.
func (r *Rejection) blame(objs []*unstructured.Unstructured) {
	words := ownWords(r.Reason)
	var best *unstructured.Unstructured
	most := 0
	for _, o := range objs {
		spec, _ := json.Marshal(o.Object["spec"]) // decoded from JSON: cannot fail
		n := 0
		for _, w := range words {
			quoted, _ := json.Marshal(w) // cannot fail
			if strings.Contains(string(spec), strings.Trim(string(quoted), `"`)) {
				n++
			}
		}
		if best == nil || n > most || n == most && lastWritten(o).After(lastWritten(best)) {
			best, most = o, n
		}
	}
	if best != nil {
		r.Object, r.Named = kube.Name(best), most > 0
	}
}

// ownWords are the words of Envoy's reason that can be an object's own: not those of plain prose.
func ownWords(reason string) []string {
	var words []string
	for _, w := range strings.Fields(reason) {
		w = strings.Trim(w, `'"`+"`,;:.")
		if len(w) > 1 && strings.ContainsAny(w, `_.-/\?*+[]{}()^$|`) {
			words = append(words, w)
		}
	}
	return words
}

// lastWritten is when somebody last wrote o, its status not counted.
func lastWritten(o *unstructured.Unstructured) time.Time {
	newest := o.GetCreationTimestamp().Time
	for _, f := range o.GetManagedFields() {
		if f.Subresource == "" && f.Time != nil && f.Time.After(newest) {
			newest = f.Time.Time
		}
	}
	return newest
}
